//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"shoal/api"
	"shoal/netdp/dns"
	"shoal/netdp/dns/forward"
	"shoal/netdp/dns/kubedns"
	"shoal/netdp/dns/records"
	netservices "shoal/netdp/services"
)

const (
	// clusterDomain is Kubernetes' default; certificates name it too.
	clusterDomain = "cluster.local"
	// resolvConf has the servers that are asked for names outside the cell.
	resolvConf = "/etc/resolv.conf"
)

// clusterDNS is this host's DNS server with all that belongs to it.
type clusterDNS struct {
	index    *records.Index
	follower *dns.Follower
	forward  *forward.Forwarder
	server   *dns.Server
	keeper   *kubedns.Keeper
	services informers.SharedInformerFactory
}

// newDNS takes the address for the DNS server and makes the kube-dns service, so
// that the agent, which starts later, knows what to tell pods.
func (p *peer) newDNS(ctx context.Context, shared informers.SharedInformerFactory) (_ *clusterDNS, err error) {
	client, err := kubernetes.NewForConfig(p.server.ClientConfig("shoal-dns"))
	if err != nil {
		return nil, fmt.Errorf("make DNS client: %w", err)
	}
	log := p.log.With("part", "dns")
	stubs, err := forward.ParseStubs(p.config.DNSStubs)
	if err != nil {
		return nil, fmt.Errorf("--dns-stub: %w", err)
	}
	address, err := p.datapath.ServerAddress()
	if err != nil {
		return nil, err
	}
	d := &clusterDNS{
		index:    records.New(clusterDomain, p.ownRanges()...),
		keeper:   kubedns.New(client, api.DefaultServiceCIDR, log),
		services: shared,
	}
	own := func(a netip.Addr) bool { return a == address || a == d.keeper.Address() }
	d.forward = forward.New(forward.Options{ResolvConf: resolvConf, Own: own, Stubs: stubs, Logger: log})
	defer func() {
		if err != nil {
			d.forward.Close()
		}
	}()
	if d.follower, err = dns.Follow(d.index, shared); err != nil {
		return nil, err
	}
	if d.server, err = dns.Listen(ctx, dns.Options{
		Address: address, Index: d.index, Forward: d.forward, Synced: d.follower.Synced, Allowed: p.datapath.IsLocal, Logger: log,
	}); err != nil {
		return nil, errors.Join(err, d.follower.Close())
	}
	if err := d.keeper.Ensure(ctx); err != nil {
		log.Warn("pods that start now are given the usual address of the cluster DNS", "address", d.keeper.Address(), "error", err)
		d.keeper.Missing()
	}
	return d, nil
}

// own is the service that this server answers on this host.
func (d *clusterDNS) own() netservices.Own {
	return netservices.Own{Service: kubedns.Key, Backend: d.server.Addr()}
}

// run serves until ctx ends.
func (d *clusterDNS) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.server.Run(ctx) })
	group.Go(func() error {
		return d.keeper.Run(ctx, d.services.Core().V1().Services().Informer(), d.index.SetServer)
	})
	err := group.Wait()
	d.forward.Close()
	return errors.Join(err, d.follower.Close())
}
