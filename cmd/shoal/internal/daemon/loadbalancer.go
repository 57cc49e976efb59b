//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"shoal/netdp/announce"
	"shoal/netdp/announce/elect"
	"shoal/netdp/healthport"
	netservices "shoal/netdp/services"
)

// startLoadBalancers runs what this host does for services of type LoadBalancer
// beside forwarding: it announces the addresses it is elected for and serves
// health-check ports. announced tells for which it answers.
func (p *peer) startLoadBalancers(ctx context.Context, group *errgroup.Group, shared informers.SharedInformerFactory) (announced func() []netip.Addr, _ error) {
	client, err := kubernetes.NewForConfig(p.server.ClientConfig("shoal-announce"))
	if err != nil {
		return nil, fmt.Errorf("make client of the announcer: %w", err)
	}
	log := p.log.With("part", "announce")
	var announcer *elect.Controller
	responder := announce.New(announce.Options{
		Do: p.datapath.InHost, Logger: log,
		OfHost: func(mac net.HardwareAddr) bool { return announcer.OfHost(mac) }, Changed: func() { announcer.Look() },
	})
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "shoal", Host: p.config.Name})
	changed, stop := p.node.Watch()
	// The responder calls the announcer from when that has had it answer.
	announcer, err = elect.New(elect.Options{
		Self: p.config.Name, Alive: p.node.Names, Changed: changed,
		Interfaces: p.datapath.EthernetUplinks, Links: p.datapath.UplinkNetworks, Hardware: p.datapath.UplinkHardware,
		Responder: responder, Client: client, Events: recorder, Logger: log,
	}, shared)
	if err != nil {
		stop()
		return nil, err
	}
	p.announcer = announcer
	ports, err := healthport.New(shared, p.config.Name, p.forwards, recorder, p.log.With("part", "health ports"))
	if err != nil {
		stop()
		return nil, err
	}
	group.Go(func() error {
		defer stop()
		return named("announce", announcer.Run(ctx))
	})
	group.Go(func() error {
		defer events.Shutdown()
		return named("health ports", ports.Run(ctx))
	})
	return responder.Addresses, nil
}

// stopAnnouncing has other hosts announce what this one did. That it cannot be
// told keeps nothing from stopping: gossip tells them soon.
func (p *peer) stopAnnouncing(ctx context.Context) {
	if err := p.announcer.Leave(ctx); err != nil {
		p.log.Warn("hand load-balancer addresses over to other hosts", "error", err)
	}
}

// forwards tells whether the kernel has all ports of a service.
func (p *peer) forwards(svc *corev1.Service) bool {
	return !slices.ContainsFunc(netservices.Keys(svc), func(key string) bool { return !p.datapath.HasService(key) })
}
