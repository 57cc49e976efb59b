package elect

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"shoal/api/loadbalancer/v1alpha1"
)

// Reasons of the condition v1alpha1.Announced.
const (
	ReasonOnLink = "OnLink"
	// ReasonNobody: no living host is on the address's link and, with
	// externalTrafficPolicy Local, has a ready endpoint.
	ReasonNobody = "NoHost"
	// ReasonDuplicate: a machine on the link that is no host of the cell has the
	// address.
	ReasonDuplicate = "DuplicateAddress"
)

// say writes into a service which host announces it: this one, or none. With
// addresses of two families that two hosts announce, the first one's counts.
func (c *Controller) say(ctx context.Context, name string, v verdict) error {
	svc := c.services.Service(name)
	if svc == nil || !v.elected && !v.nobody || len(Addresses(svc)) == 0 {
		return nil
	}
	said := metav1.Condition{Type: v1alpha1.Announced, Status: metav1.ConditionTrue, Reason: ReasonOnLink, Message: c.o.Self, ObservedGeneration: svc.Generation}
	if v.nobody {
		said.Status, said.Reason, said.Message = metav1.ConditionFalse, ReasonNobody, nobody(svc)
	} else if yes, taken := c.o.Responder.Answers(v.first); taken != nil {
		said.Status, said.Reason, said.Message = metav1.ConditionFalse, ReasonDuplicate, duplicate(v.first, taken)
	} else if !yes {
		return nil // it looks whether the address is free, and has this looked at again
	}
	have := meta.FindStatusCondition(svc.Status.Conditions, said.Type)
	if have != nil && have.Status == said.Status && have.Message == said.Message {
		return nil
	}
	want := svc.DeepCopy()
	meta.SetStatusCondition(&want.Status.Conditions, said)
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err := c.o.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err == nil && said.Reason == ReasonDuplicate {
		c.o.Events.Event(svc, corev1.EventTypeWarning, said.Reason, said.Message)
	}
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	if apierrors.IsConflict(err) {
		c.look(name) // what changed is about to be heard
		return nil
	}
	return fmt.Errorf("say who announces service %s: %w", name, err)
}

func nobody(svc *corev1.Service) string {
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return "externalTrafficPolicy is Local, and no host on the address's link has a ready endpoint"
	}
	return "no living host on the address's link may announce it"
}

func duplicate(a netip.Addr, by net.HardwareAddr) string {
	return fmt.Sprintf("the machine with the hardware address %s has %s, so no host announces it: take the address from that machine, "+
		"or out of the AddressPool; it is looked for again from time to time", by, a)
}

// OfHost tells whether a hardware address is of a host of the cell.
func (c *Controller) OfHost(mac net.HardwareAddr) bool {
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	return slices.ContainsFunc(nodes, func(n *corev1.Node) bool {
		return slices.Contains(strings.Split(n.Annotations[v1alpha1.LinkHardware], ","), mac.String())
	})
}

// publish writes into this host's Node which networks its links are in, and that
// it is here to announce.
func (c *Controller) publish(ctx context.Context) error {
	if c.leaving.Load() {
		return nil
	}
	node, err := c.nodes.Get(c.o.Self)
	if err != nil {
		return nil // its agent is about to make it
	}
	links, err := c.o.Links()
	if err != nil {
		return fmt.Errorf("say which networks this host is in: %w", err)
	}
	_, left := node.Annotations[v1alpha1.Leaving]
	since, stable := c.since.Format(time.RFC3339Nano), any(nil)
	if c.isStable() {
		stable = since
	}
	want := map[string]any{v1alpha1.Links: formatLinks(links), v1alpha1.LinkHardware: formatHardware(c.o.Hardware()), v1alpha1.AnnouncesSince: since, v1alpha1.AnnouncesStable: stable}
	same := !left
	for name, value := range want {
		has, is := node.Annotations[name]
		same = same && (is && has == value || !is && value == nil)
	}
	if same {
		return nil
	}
	want[v1alpha1.Leaving] = nil
	return c.annotate(ctx, want)
}

// Leave has other hosts take over what this one announces, before it goes, and waits
// for them a while; Run must be running. From then on it announces nothing until it
// is started again.
func (c *Controller) Leave(ctx context.Context) error {
	c.leaving.Store(true)
	if err := c.annotate(ctx, map[string]any{v1alpha1.Leaving: time.Now().UTC().Format(time.RFC3339)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for {
		mine := c.announced()
		if len(mine) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no other host has taken over the addresses of %s: %w", strings.Join(mine, ", "), ctx.Err())
		case <-time.After(handOverLook):
		}
	}
}

// announced are the services that this host is said to announce.
func (c *Controller) announced() []string {
	svcs, _ := c.services.Lister().List(labels.Everything()) // from memory
	var names []string
	for _, s := range svcs {
		said := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.Announced)
		if len(Addresses(s)) > 0 && said != nil && said.Status == metav1.ConditionTrue && said.Message == c.o.Self {
			names = append(names, s.Namespace+"/"+s.Name)
		}
	}
	return names
}

// annotate changes annotations of this host's Node; nil takes one away.
func (c *Controller) annotate(ctx context.Context, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return fmt.Errorf("annotate this host's Node: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err = c.o.Client.CoreV1().Nodes().Patch(ctx, c.o.Self, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("annotate this host's Node: %w", err)
	}
	return nil
}
