package localvolume

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/api/storageclass"
)

const (
	// roomPeriod is how often the room is looked at although no volume came or
	// went: others fill the disk too.
	roomPeriod = 5 * time.Minute
	// roomSettle gathers changes, so that a hundred volumes are one write.
	roomSettle = time.Second
	// roomStepPercent of what was said is how much the room must have changed
	// to be said again.
	roomStepPercent = 5
)

// room publishes how much this host has room for, as CSI drivers do: one
// CSIStorageCapacity for each class of ours. The scheduler reads them.
type room struct {
	p       *Provisioner
	changed chan struct{}
}

// look has the room looked at soon.
func (r *room) look() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *room) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
			timer.Reset(roomSettle)
			continue
		case <-timer.C:
		}
		timer.Reset(roomPeriod)
		if err := r.publish(ctx, false); err != nil && ctx.Err() == nil {
			r.p.log.Warn("the room for volumes could not be published", "error", err)
		}
	}
}

// publish writes what differs much from what the API has, or at all.
func (r *room) publish(ctx context.Context, exact bool) error {
	free, err := r.p.backend.Room()
	if err != nil {
		return err
	}
	node, err := r.p.nodes.Get(r.p.o.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // it is published when the node is there
	}
	if err != nil {
		return fmt.Errorf("read this host's node: %w", err)
	}
	classes, err := r.p.classes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, class := range classes {
		if class.Provisioner != storageclass.Provisioner {
			continue
		}
		if err := r.publishFor(ctx, class.Name, node, max(free, 0), exact); err != nil {
			return fmt.Errorf("publish the room for volumes of class %s: %w", class.Name, err)
		}
	}
	return nil
}

func (r *room) publishFor(ctx context.Context, class string, node *v1.Node, free int64, exact bool) error {
	api := r.p.o.Client.StorageV1().CSIStorageCapacities(metav1.NamespaceSystem)
	name := class + "." + node.Name
	now, err := api.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, capacityOf(name, class, node, free), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	said := now.Capacity.Value()
	if step := said * roomStepPercent / 100; free == said || !exact && free > said-step && free < said+step {
		return nil
	}
	now.Capacity = resource.NewQuantity(free, resource.BinarySI)
	_, err = api.Update(ctx, now, metav1.UpdateOptions{})
	return err
}

// capacityOf goes with the node it is of.
func capacityOf(name, class string, node *v1.Node, free int64) *storagev1.CSIStorageCapacity {
	return &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: metav1.NamespaceSystem,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		StorageClassName: class,
		NodeTopology:     &metav1.LabelSelector{MatchLabels: map[string]string{v1.LabelHostname: node.Labels[v1.LabelHostname]}},
		Capacity:         resource.NewQuantity(free, resource.BinarySI),
	}
}
