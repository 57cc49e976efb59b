package hosts

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"shoal/netdp"
	"shoal/netdp/wireguard"
)

const (
	// refreshInterval bounds how long a route that somebody removed stays
	// unnoticed; what happens to interfaces is noticed at once.
	refreshInterval = 30 * time.Second
	// settleTime lets Nodes that change together (a rack that starts) be set
	// together; a new host's pods need longer than that to start.
	settleTime = 100 * time.Millisecond
	// retryInterval is how soon a failure is tried again.
	retryInterval = 2 * time.Second
	// writeTimeout bounds one write to the API.
	writeTimeout = 10 * time.Second
)

// KeyAnnotation of a Node has the WireGuard key of its host, in base64, while
// the host encrypts.
const KeyAnnotation = "shoal.dev/wireguard-key"

// Datapath is what the Controller writes to.
type Datapath interface {
	SetHosts([]netdp.Host) error
	WatchLinks(ctx context.Context, changed func()) error
	// KeyToTell is the key that other hosts are to be told, zero: none.
	KeyToTell() wireguard.Key
}

// Controller follows Nodes.
type Controller struct {
	dp      Datapath
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	nodes   corelisters.NodeLister
	handler cache.ResourceEventHandlerRegistration
	self    string
	changed chan struct{} // one token: something is to be set
	log     *slog.Logger
}

// New registers the informer it needs with the factory; Run starts it.
func New(dp Datapath, client kubernetes.Interface, factory informers.SharedInformerFactory, nodeName string, logger *slog.Logger) *Controller {
	nodes := factory.Core().V1().Nodes()
	c := &Controller{
		dp: dp, client: client, factory: factory, nodes: nodes.Lister(), self: nodeName,
		changed: make(chan struct{}, 1), log: logger.With("node", nodeName),
	}
	var err error
	c.handler, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.wake() },
		UpdateFunc: func(old, obj any) {
			// A Node's status is written often, what counts here seldom.
			before, ok1 := old.(*corev1.Node)
			after, ok2 := obj.(*corev1.Node)
			if !ok1 || !ok2 || !sameHost(hostOf(before), hostOf(after)) {
				c.wake()
			}
		},
		DeleteFunc: func(any) { c.wake() },
	})
	if err != nil {
		c.log.Error("follow nodes", "error", err) // only after the informer was stopped
	}
	return c
}

// Wake has the hosts set anew, since what the datapath makes of them has changed.
func (c *Controller) Wake() { c.wake() }

func (c *Controller) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. The kernel keeps forwarding after it has returned.
func (c *Controller) Run(ctx context.Context) error {
	if c.handler == nil {
		return errors.New("follow nodes: the informer was stopped")
	}
	c.factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), c.handler.HasSynced) {
		return nil
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		c.watchLinks(ctx)
	}()
	defer func() { <-watching }()
	for {
		next := refreshInterval
		if err := c.set(ctx); err != nil {
			c.log.Warn("set hosts", "error", err)
			next = retryInterval
		}
		if !c.pause(ctx, next) {
			return nil
		}
	}
}

// watchLinks begins again after a failure (the kernel's messages came faster
// than they were read), and has the hosts set then, since some were missed.
func (c *Controller) watchLinks(ctx context.Context) {
	for {
		err := c.dp.WatchLinks(ctx, c.wake)
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("watch interfaces", "error", err)
		timer := time.NewTimer(retryInterval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			c.wake()
		}
	}
}

// pause ends when it is time to set the hosts again; false: the daemon ends.
func (c *Controller) pause(ctx context.Context, longest time.Duration) bool {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-c.changed:
	}
	settle := time.NewTimer(settleTime)
	defer settle.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-settle.C:
	}
	select {
	case <-c.changed: // the change that follows is in the same list
	default:
	}
	return true
}

func (c *Controller) set(ctx context.Context) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	// One host's trouble does not keep the key from the others.
	return errors.Join(c.dp.SetHosts(FromNodes(nodes, c.self)), c.publishKey(ctx))
}

// publishKey writes this host's key into its Node, or takes it away. It comes
// after the device is there: others drop what they cannot encrypt until then.
func (c *Controller) publishKey(ctx context.Context) error {
	node, err := c.nodes.Get(c.self)
	if err != nil {
		return nil // its agent is about to make it
	}
	var want any
	if key := c.dp.KeyToTell(); !key.IsZero() {
		want = key.String()
	}
	if have, ok := node.Annotations[KeyAnnotation]; ok && want == any(have) || !ok && want == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{KeyAnnotation: want}}})
	if err != nil {
		return fmt.Errorf("tell this host's key: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, c.self, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("tell this host's key: %w", err)
	}
	return nil
}

// FromNodes lists all hosts but self, the oldest first: of two that claim the
// same pods, the one that was there before keeps them.
func FromNodes(nodes []*corev1.Node, self string) []netdp.Host {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return n.Name == self })
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	out := make([]netdp.Host, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, hostOf(n))
	}
	return out
}

// hostOf leaves out what it cannot read; the datapath says what is missing.
func hostOf(n *corev1.Node) netdp.Host {
	h := netdp.Host{Name: n.Name}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			h.Addresses = append(h.Addresses, ip)
		}
	}
	for _, cidr := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			continue
		}
		// The first of each family counts.
		if six := p.Addr().Is6(); six && !h.PodCIDR6.IsValid() {
			h.PodCIDR6 = p
		} else if !six && !h.PodCIDR.IsValid() {
			h.PodCIDR = p
		}
	}
	if text, ok := n.Annotations[KeyAnnotation]; ok {
		h.WireGuardKey, _ = wireguard.ParseKey(text)
	}
	return h
}

func sameHost(a, b netdp.Host) bool {
	return a.Name == b.Name && a.PodCIDR == b.PodCIDR && a.PodCIDR6 == b.PodCIDR6 && a.WireGuardKey == b.WireGuardKey && slices.Equal(a.Addresses, b.Addresses)
}
