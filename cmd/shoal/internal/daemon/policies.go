//go:build linux

package daemon

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"shoal/netdp/policy"
)

// startUnenforced has people told of policies that this host does not enforce,
// where its pods' network is not shoal's.
func (p *peer) startUnenforced(ctx context.Context, group *errgroup.Group, shared informers.SharedInformerFactory) error {
	if p.config.NetworkDriver != NetworkDriverCNI {
		return nil
	}
	client, err := kubernetes.NewForConfig(p.server.ClientConfig("shoal-policies"))
	if err != nil {
		return fmt.Errorf("make policies client: %w", err)
	}
	events := record.NewBroadcaster()
	err = policy.WatchUnenforced(shared, p.config.Name, events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "shoal-policies", Host: p.config.Name}))
	if err != nil {
		return err
	}
	group.Go(func() error {
		watcher := events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(corev1.NamespaceAll)})
		defer events.Shutdown()
		defer watcher.Stop()
		<-ctx.Done()
		return nil
	})
	return nil
}
