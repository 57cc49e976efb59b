// Package hosts makes the API say what gossip knows of hosts: the Node of a
// host that failed or left is no longer Ready, and its address leaves the
// `kubernetes` service.
//
// What always holds: only one of the peers that see each other writes about a
// host (see Chosen); should two do it, they write the same. A host that is
// alive is never written about: its own agent and its own API server say what
// is true of it, and do so at once when they find something else said.
//
// It does not decide who is alive, and evicts nothing.
package hosts

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

// Members is what gossip knows of the cell's hosts, by node name.
type Members interface {
	// Alive returns the hosts believed alive, this one included.
	Alive() map[string]bool
	// Left reports whether a host that is not alive took leave, rather than
	// failing.
	Left(name string) bool
	// Changed delivers after any of this has changed. It belongs to one
	// receiver and may be closed when there is nothing more to tell.
	Changed() <-chan struct{}
}

const (
	// settle is how long after its start a peer says nothing of hosts it has
	// not met yet: it may be that it has met nobody.
	settle = 30 * time.Second
	// recheck finds what was missed, such as a Node that another peer wrote
	// about while it thought otherwise.
	recheck = 15 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 10 * time.Second
)

// ReasonLeft is the reason of a Ready condition of a host that took leave.
const ReasonLeft = "NodeLeft"

// reasonUnknown is Kubernetes' own, which people and tools look for.
const reasonUnknown = "NodeStatusUnknown"

// Options of a Watcher.
type Options struct {
	// Self is this host's node name.
	Self    string
	Members Members
	Client  kubernetes.Interface
	Nodes   corelisters.NodeLister
	Slices  discoverylisters.EndpointSliceLister
	Logger  *slog.Logger
	// Settle replaces the default, for tests.
	Settle time.Duration
}

// Watcher writes about hosts that are gone.
type Watcher struct {
	o Options
	// Only Run uses these.
	started time.Time
	met     map[string]bool      // seen alive since the start
	gone    map[string]time.Time // not alive, since when
}

// New returns a Watcher; the listers must be synced before Run.
func New(o Options) *Watcher {
	if o.Settle == 0 {
		o.Settle = settle
	}
	return &Watcher{o: o, met: map[string]bool{}, gone: map[string]time.Time{}}
}

// Run follows the membership until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	w.started = time.Now()
	changed := w.o.Members.Changed()
	ticker := time.NewTicker(min(recheck, w.o.Settle))
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case _, open := <-changed:
			if !open {
				changed = nil
			}
		case <-ticker.C:
		}
	}
}

// look compares every Node with what gossip says of its host.
func (w *Watcher) look(ctx context.Context) {
	nodes, err := w.o.Nodes.List(labels.Everything())
	if err != nil {
		w.o.Logger.Warn("list nodes", "error", err)
		return
	}
	alive := w.o.Members.Alive()
	w.note(alive, nodes)
	for _, node := range nodes {
		since, gone := w.gone[node.Name]
		if !gone || !Chosen(w.o.Self, alive, node.Name) {
			continue
		}
		if err := w.write(ctx, node, since); err != nil && ctx.Err() == nil {
			w.o.Logger.Warn("say that a host is gone, will retry", "node", node.Name, "error", err)
		}
	}
}

// note keeps met and gone. Neither grows beyond the nodes and members there are.
func (w *Watcher) note(alive map[string]bool, nodes []*corev1.Node) {
	for name := range alive {
		w.met[name] = true
		delete(w.gone, name)
	}
	known := map[string]bool{}
	for _, n := range nodes {
		known[n.Name] = true
		if alive[n.Name] {
			continue
		}
		if _, ok := w.gone[n.Name]; !ok && (w.met[n.Name] || time.Since(w.started) >= w.o.Settle) {
			w.gone[n.Name] = time.Now()
		}
	}
	for name := range w.gone {
		if !known[name] {
			delete(w.gone, name)
		}
	}
	for name := range w.met {
		if !known[name] && !alive[name] {
			delete(w.met, name)
		}
	}
}

// write makes the API say that node's host is gone.
func (w *Watcher) write(ctx context.Context, node *corev1.Node, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := w.removeEndpoint(ctx, node.Name); err != nil {
		return err
	}
	status, reason := corev1.ConditionUnknown, reasonUnknown
	message := fmt.Sprintf("gossip calls this host failed since %s, says %s", since.UTC().Format(time.RFC3339), w.o.Self)
	if w.o.Members.Left(node.Name) {
		status, reason = corev1.ConditionFalse, ReasonLeft
		message = fmt.Sprintf("the host took leave of the cell at about %s, says %s; `shoal node forget %s` removes it", since.UTC().Format(time.RFC3339), w.o.Self, node.Name)
	}
	if said(node, status, reason) {
		return nil
	}
	next := node.DeepCopy()
	now := metav1.Now()
	for i := range next.Status.Conditions {
		c := &next.Status.Conditions[i]
		if c.Type == corev1.NodeReady {
			setCondition(c, status, reason, message, now)
			continue
		}
		// Nobody knows the rest of a host that does not answer.
		setCondition(c, corev1.ConditionUnknown, reasonUnknown, message, now)
	}
	if readyOf(next) == nil {
		next.Status.Conditions = append(next.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady})
		setCondition(readyOf(next), status, reason, message, now)
	}
	_, err := w.o.Client.CoreV1().Nodes().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // deleted, or somebody else wrote: the next look sees
	}
	if err == nil {
		w.o.Logger.Info("host is gone", "node", node.Name, "reason", reason)
	}
	return err
}

func setCondition(c *corev1.NodeCondition, status corev1.ConditionStatus, reason, message string, now metav1.Time) {
	if c.Status != status {
		c.LastTransitionTime = now
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

func readyOf(node *corev1.Node) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// said: the reason alone counts, as the times differ between peers.
func said(node *corev1.Node, status corev1.ConditionStatus, reason string) bool {
	ready := readyOf(node)
	return ready != nil && ready.Status == status && ready.Reason == reason
}

// removeEndpoint takes the host's API address out of the `kubernetes` service.
// Its own API server puts it back when it finds it gone.
func (w *Watcher) removeEndpoint(ctx context.Context, node string) error {
	_, err := w.o.Slices.EndpointSlices(metav1.NamespaceDefault).Get(SliceName(node))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return deleteSlice(ctx, w.o.Client, node)
}

func deleteSlice(ctx context.Context, client kubernetes.Interface, node string) error {
	err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, SliceName(node), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove API endpoint of %s: %w", node, err)
	}
	return nil
}

// SliceName is the EndpointSlice of the `kubernetes` service that a host's API
// server owns.
func SliceName(node string) string { return "kubernetes-" + node }

// Forget deletes what the API still says of a host that will not return. Its
// pods are collected like those of any Node that is deleted, and so is its
// lease; deleting the Node by hand does the same.
func Forget(ctx context.Context, client kubernetes.Interface, node string) error {
	if err := deleteSlice(ctx, client, node); err != nil {
		return err
	}
	err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, node, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove lease of %s: %w", node, err)
	}
	if err = client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", node, err)
	}
	return nil
}
