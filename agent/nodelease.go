package agent

import (
	"context"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeLeaseLife is what the node's lease promises: three refreshes. Nothing in
// shoal waits for it, membership does not come from leases; it is for clients
// that show or watch it.
const nodeLeaseLife = 3 * nodeRefresh

// renewLease writes the node's lease in kube-node-lease, as the kubelet does,
// once per refresh instead of every ten seconds.
func (n *node) renewLease(ctx context.Context) error {
	if time.Since(n.renewed) < nodeRefresh/2 {
		return nil
	}
	leases := n.kube.CoordinationV1().Leases(v1.NamespaceNodeLease)
	now, life := metav1.NowMicro(), int32(nodeLeaseLife/time.Second)
	lease, err := leases.Get(ctx, n.o.NodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		lease = &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.o.NodeName, Namespace: v1.NamespaceNodeLease}}
		lease.Spec = coordination.LeaseSpec{HolderIdentity: &n.o.NodeName, LeaseDurationSeconds: &life, AcquireTime: &now, RenewTime: &now}
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	case err == nil:
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &n.o.NodeName, &life, &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew lease of node %s: %w", n.o.NodeName, err)
	}
	n.renewed = now.Time
	return nil
}
