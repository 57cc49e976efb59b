package api

import (
	"context"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"shoal/api/claims"
	"shoal/api/hosts"
)

// addCellHooks starts what makes many API servers one: claims that are
// followed and repaired, hosts that are gone, conflicts that are shown. Each
// runs until the server stops.
func (s *Server) addCellHooks(generic *genericapiserver.GenericAPIServer, shared informers.SharedInformerFactory, publisher *endpoints, again *comeback, client kubernetes.Interface, o Options) error {
	services := shared.Core().V1().Services()
	nodes := shared.Core().V1().Nodes()
	slices := shared.Discovery().V1().EndpointSlices()
	numbers := &collisions{ledgers: s.ledgers, self: o.NodeName, members: o.Members, client: client, storages: s.storages, log: s.log}
	if err := numbers.follow(services.Informer()); err != nil {
		return err
	}
	// Asking for an informer here has the factory start it.
	synced := []cache.InformerSynced{services.Informer().HasSynced, nodes.Informer().HasSynced, slices.Informer().HasSynced}
	start := func(name string, run func(ctx context.Context)) {
		generic.AddPostStartHookOrDie(name, func(hook genericapiserver.PostStartHookContext) error {
			s.cell.Go(func() {
				if cache.WaitForCacheSync(hook.Done(), synced...) {
					run(hook)
				}
			})
			return nil
		})
	}
	start("repair-service-claims", func(ctx context.Context) { s.ledgers.run(ctx, services.Lister(), s.log) })
	start("repair-service-collisions", numbers.run)
	start("follow-cluster-ip-claims", func(ctx context.Context) { s.followClaims(ctx, s.ledgers.ips, numbers.claimChanged(clusterIPv4)) })
	if s.ledgers.ips6 != nil {
		start("follow-cluster-ipv6-claims", func(ctx context.Context) { s.followClaims(ctx, s.ledgers.ips6, numbers.claimChanged(clusterIPv6)) })
	}
	start("follow-node-port-claims", func(ctx context.Context) { s.followClaims(ctx, s.ledgers.ports, numbers.claimChanged(nodePort)) })
	start("republish-api-endpoint", func(ctx context.Context) {
		if err := publisher.follow(ctx, slices.Informer()); err != nil {
			s.log.Error("this host's API endpoint is not watched", "error", err)
		}
	})
	start("bring-back-kubernetes-service", func(ctx context.Context) {
		if err := again.follow(ctx, services.Informer()); err != nil {
			s.log.Error("the kubernetes service is not watched", "error", err)
		}
	})
	if err := s.addLoadBalancers(start, shared, client, o); err != nil {
		return err
	}
	start("make-default-storage-class", func(ctx context.Context) { s.ensureStorage(ctx, client, o) })
	if o.Members != nil {
		watcher := hosts.New(hosts.Options{
			Self: o.NodeName, Members: o.Members, Client: client, Nodes: nodes.Lister(), Slices: slices.Lister(), Logger: s.log,
		})
		start("say-which-hosts-are-gone", watcher.Run)
	}
	if o.Conflicts != nil {
		start("show-name-conflicts", func(ctx context.Context) { o.Conflicts.run(ctx, client, s.log) })
	}
	if o.PodCIDR.IsValid() {
		ledger, err := openPodRanges(context.Background(), o.DB, o.NodeName)
		if err != nil {
			return err
		}
		watch := &podRangeWatch{node: o.NodeName, prefix: o.PodCIDR, prefix6: o.PodCIDR6, ledger: ledger, client: client, storages: s.storages, log: s.log}
		start("watch-pod-range", watch.run)
	}
	return nil
}

func (s *Server) followClaims(ctx context.Context, ledger *claims.Ledger, changed func(int)) {
	if err := ledger.Run(ctx, changed); err != nil && ctx.Err() == nil {
		s.log.Error("claims of other peers are not heard of", "error", err)
	}
}
