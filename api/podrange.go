package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	core "k8s.io/kubernetes/pkg/apis/core"

	"shoal/api/claims"
	apistorage "shoal/api/storage"
	"shoal/store"
)

// podRangeWatch looks after this host's claim on its range of pod addresses.
// Running pods cannot change their addresses. So where two sides of a split
// claimed the same range, the host whose claim was born later goes on with it
// until its next start, when it claims another, and says so loudly meanwhile.
type podRangeWatch struct {
	node     string
	prefix   netip.Prefix
	prefix6  netip.Prefix // goes with prefix, not valid: there is none
	ledger   *claims.Ledger
	client   kubernetes.Interface
	storages *apistorage.Set
	log      *slog.Logger
	// lost: it has been said, until the claim is ours again.
	lost atomic.Bool
}

// podRangeNumber is the inverse of podRangeOf.
func podRangeNumber(p netip.Prefix) int {
	base := p.Addr().As4()
	return int(base[1]&^PodRange.Addr().As4()[1])<<8 | int(base[2])
}

func podRangeOf(n int) netip.Prefix {
	base := PodRange.Addr().As4()
	base[1] |= byte(n >> 8)
	base[2] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(base), podCIDRBits)
}

func openPodRanges(ctx context.Context, db *store.DB, nodeName string) (*claims.Ledger, error) {
	return claims.Open(ctx, records{db}, podCIDRClaims, nodeName, 1<<(podCIDRBits-PodRange.Bits()), 0)
}

// run follows the claim until ctx ends.
func (w *podRangeWatch) run(ctx context.Context) {
	if err := w.correctNode(ctx); err != nil {
		w.log.Warn("write the pod range of this node", "error", err)
	}
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	mine := podRangeNumber(w.prefix)
	go func() {
		done <- w.ledger.Run(ctx, func(n int) {
			if n != mine && n != -1 {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				w.log.Error("the claim on the pod range is not watched any more", "error", err)
			}
			return
		case <-changed:
			if err := w.look(ctx, mine); err != nil && ctx.Err() == nil {
				w.log.Warn("look after the claim on the pod range", "error", err)
			}
		}
	}
}

func (w *podRangeWatch) look(ctx context.Context, mine int) error {
	claim, held := w.ledger.Claim(mine)
	if !held {
		_, err := w.ledger.Take(mine)
		return err
	}
	if claim.Holder == w.node {
		w.lost.Store(false)
		return nil
	}
	if w.lost.Swap(true) {
		return nil
	}
	message := fmt.Sprintf("pod addresses %s were claimed by this host and, earlier, by host %s, while they could not see each other; "+
		"pods of both may have the same addresses: drain this host and restart shoal on it, it then takes another range", w.prefix, claim.Holder)
	w.log.Error("pod range belongs to another host", "range", w.prefix, "host", claim.Holder, "fix", "drain this host and restart shoal on it")
	ctx, cancel := context.WithTimeout(ctx, renumberTimeout)
	defer cancel()
	// Events about nodes carry the name as uid, as the kubelet's do.
	return postEvent(ctx, w.client, corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: w.node, UID: types.UID(w.node)}, "PodCIDRConflict", message)
}

// correctNode makes an existing Node say the range it has now: the API lets
// nobody change it once it is set.
func (w *podRangeWatch) correctNode(ctx context.Context) error {
	nodes := w.storages.Get(schema.GroupResource{Resource: "nodes"})
	if nodes == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, renumberTimeout)
	defer cancel()
	err := nodes.Rewrite(ctx, "", w.node, &core.Node{}, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		node, ok := obj.(*core.Node)
		if ok && len(node.Spec.PodCIDRs) > 0 {
			node.Spec.PodCIDRs = []string{w.prefix.String()}
			if w.prefix6.IsValid() {
				node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, w.prefix6.String())
			}
		}
		return obj, nil
	}))
	if storage.IsNotFound(err) {
		return nil // its agent will make it, with the right range
	}
	return err
}
