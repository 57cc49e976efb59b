//go:build linux

package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"shoal/agent"
)

// waitNode returns once this host's Node exists and is Ready, or only wants a pod
// network: what gives it one may be a pod that is still to start here.
func (p *peer) waitNode(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	only := fields.OneTermEqualSelector("metadata.name", p.config.Name).String()
	nodes := client.CoreV1().Nodes()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return nodes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return nodes.Watch(ctx, o)
		},
	}
	last, err := watchtools.UntilWithSync(ctx, cache.ToListWatcherWithWatchListSemantics(lw, client), &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		return ok && (nodeReady(node) || noPodNetwork(node) != ""), nil
	})
	if err != nil {
		return fmt.Errorf("wait for node %s to be Ready: %w", p.config.Name, err)
	}
	if node, ok := last.Object.(*corev1.Node); ok && !nodeReady(node) {
		p.progress.warn("node " + p.config.Name + " is not ready, pods that need a network of their own wait: " + noPodNetwork(node))
	}
	return nil
}

// noPodNetwork is why the node is not Ready where that is its pods' network alone.
func noPodNetwork(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, agent.NetworkPluginNotReady) {
			return c.Message
		}
	}
	return ""
}

func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// runDir holds what must not survive a reboot: pinned namespaces and maps. The
// default data directory has the short name, for people who look.
func runDir(c Config) string {
	if c.DataDir == DefaultDataDir {
		return "/run/shoal"
	}
	return "/run/shoal-" + c.Name
}

// netStateDir is the datapath's, there for as long as the host has a network for
// pods.
func netStateDir(c Config) string { return filepath.Join(runDir(c), "net") }
