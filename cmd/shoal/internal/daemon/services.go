//go:build linux

package daemon

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	netservices "shoal/netdp/services"
)

// serviceParts is the controller of services with where its Events go.
type serviceParts struct {
	controller *netservices.Controller
	events     record.EventBroadcaster
	sink       *typedcorev1.EventSinkImpl
}

func (p *peer) newServices(shared informers.SharedInformerFactory, dns *clusterDNS) (*serviceParts, error) {
	client, err := kubernetes.NewForConfig(p.server.ClientConfig("shoal-services"))
	if err != nil {
		return nil, fmt.Errorf("make services client: %w", err)
	}
	s := &serviceParts{
		events: record.NewBroadcaster(),
		sink:   &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(corev1.NamespaceAll)},
	}
	s.controller = netservices.New(netservices.Options{
		Datapath: p.datapath, Informers: shared, Node: p.config.Name, Members: p.hostMembers(),
		Events: s.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "shoal-services", Host: p.config.Name}),
		Own:    []netservices.Own{dns.own()}, Reserved: p.config.reservedPorts(p.listener.Addr()), Logger: p.log.With("part", "services"),
	})
	return s, nil
}

func (s *serviceParts) run(ctx context.Context) error {
	watcher := s.events.StartRecordingToSink(s.sink)
	defer s.events.Shutdown()
	defer watcher.Stop()
	return s.controller.Run(ctx)
}
