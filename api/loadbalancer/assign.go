package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/api/loadbalancer/v1alpha1"
)

// ReasonReallocated is the reason of the Event of a service that lost its
// address to one that had claimed it earlier, on another side of a split.
const ReasonReallocated = "LoadBalancerIPReallocated"

func condition(s *corev1.Service) *metav1.Condition {
	return meta.FindStatusCondition(s.Status.Conditions, v1alpha1.AddressAssigned)
}

func hasCondition(s *corev1.Service) bool { return condition(s) != nil }

// isForeign reports whether somebody else gave the service its addresses: of
// ours each is claimed, by this service or an earlier one, or we said so.
func (c *Controller) isForeign(svc *corev1.Service) bool {
	if said := condition(svc); said != nil && said.Status == metav1.ConditionTrue {
		return false
	}
	return slices.ContainsFunc(addressesOf(svc), func(a netip.Addr) bool { return !c.o.Claims.Has(a) })
}

// assign makes a service that isOurs have what it should.
func (c *Controller) assign(ctx context.Context, svc *corev1.Service, held []netip.Addr) error {
	name := serviceKey(svc)
	if c.isForeign(svc) {
		return c.withdraw(ctx, svc, nil)
	}
	if _, wait := c.lost(svc); wait {
		return nil
	}
	choices, err := plan(svc, held, c.cell(svc))
	var refused *refusal
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	if svc.DeletionTimestamp != nil {
		endChoices(choices)
	}
	have, refused, err := c.take(ctx, svc, choices, refused)
	if errors.Is(err, errNotChosen) {
		return nil
	}
	if err != nil {
		return err
	}
	if refused != nil && svc.DeletionTimestamp == nil {
		c.waiting[name] = struct{}{}
	} else {
		delete(c.waiting, name)
	}
	if err := c.write(ctx, svc, have, refused); err != nil {
		return err
	}
	return c.freeReplaced(svc, held, have)
}

// endChoices is for a service that is being deleted: it keeps what it has, and
// what its status has it may claim again, but nothing new.
func endChoices(choices []choice) {
	for i, one := range choices {
		if !one.keep.IsValid() && one.draw != nil {
			choices[i].none = refuse(ReasonEnding, "the service is being deleted and gets no new address")
		}
	}
}

// lost finds an address of the service that is claimed by another one. While
// that has not lasted, wait is true.
func (c *Controller) lost(svc *corev1.Service) (to string, wait bool) {
	name := serviceKey(svc)
	_, to = c.claimedBy(svc)
	if to == "" {
		delete(c.displaced, name)
		return "", false
	}
	since, known := c.displaced[name]
	if !known {
		since = time.Now()
		c.displaced[name] = since
	}
	left := settle - time.Since(since)
	if left > 0 {
		c.queue.AddAfter(key{service: name}, left)
	}
	return to, left > 0
}

// claimedBy is the first address of the service that another one has claimed and
// does not share, and that one; empty: none.
func (c *Controller) claimedBy(svc *corev1.Service) (a netip.Addr, by string) {
	for _, a := range addressesOf(svc) {
		claim, held := c.o.Claims.Claim(a)
		if !held || claim.Owner == "" || claim.Owner == owner(svc) {
			continue
		}
		if shared, _ := c.sharing(svc, a); !shared {
			return a, claim.Owner
		}
	}
	return netip.Addr{}, ""
}

func (c *Controller) cell(svc *corev1.Service) cell {
	var namespace labels.Set
	if ns, err := c.namespaces.Get(svc.Namespace); err == nil {
		namespace = ns.Labels
	}
	hosts := c.hosts()
	return cell{pools: c.pools.all(), namespace: namespace, owner: func(a netip.Addr) (string, bool) {
		claim, held := c.o.Claims.Claim(a)
		return claim.Owner, held
	}, share: func(a netip.Addr) (bool, string) { return c.sharing(svc, a) }, used: c.used(hosts), own: c.o.Ranges, taken: len(c.o.Claims.All()) + len(hosts)}
}

var errNotChosen = errors.New("another peer acts for this service")

// take claims what the choices lack. One family that is refused does not keep
// the other from its address; a service that only prefers two does without.
func (c *Controller) take(ctx context.Context, svc *corev1.Service, choices []choice, refused *refusal) (have []netip.Addr, _ *refusal, _ error) {
	_, oneIsEnough := families(svc)
	var first *refusal
	for _, one := range choices {
		a := one.keep
		if !a.IsValid() && c.hasFree(ctx, one) {
			if !c.chosen(key{service: serviceKey(svc)}) {
				return nil, nil, errNotChosen
			}
			var err error
			if a, err = c.draw(ctx, svc, one); err != nil {
				return nil, nil, err
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, fmt.Errorf("choose an address for service %s: %w", serviceKey(svc), err)
		}
		if a.IsValid() {
			have = append(have, a)
		} else if first == nil {
			first = one.none
		}
	}
	if refused == nil && first != nil && (len(have) == 0 || !oneIsEnough) {
		refused = first
	}
	return have, refused, nil
}

// hasFree tells whether there is an address to draw, as far as heard of, and
// until ctx ends.
func (c *Controller) hasFree(ctx context.Context, one choice) bool {
	if one.draw == nil {
		return false
	}
	for a := range one.draw {
		if ctx.Err() != nil {
			return false
		}
		if !c.o.Claims.Has(a) {
			return true
		}
	}
	return false
}

// draw claims the first free address of a choice; the zero address if none is.
// What the service's status has it gets again, if that is free; one that is
// being deleted gets nothing else.
func (c *Controller) draw(ctx context.Context, svc *corev1.Service, one choice) (netip.Addr, error) {
	for _, a := range addressesOf(svc) {
		if familyOf(a) != one.family || c.o.Claims.Has(a) || !one.may(a) {
			continue
		}
		if taken, err := c.o.Claims.Take(a, owner(svc)); err != nil || taken {
			return a, err
		}
	}
	if svc.DeletionTimestamp != nil {
		return netip.Addr{}, nil
	}
	for a := range one.draw {
		if err := ctx.Err(); err != nil {
			return netip.Addr{}, fmt.Errorf("draw an address for service %s: %w", serviceKey(svc), err)
		}
		if c.o.Claims.Has(a) {
			continue
		}
		if taken, err := c.o.Claims.Take(a, owner(svc)); err != nil || taken {
			return a, err
		}
	}
	return netip.Addr{}, nil
}

// write makes the status say what the service has, and an Event of what it
// newly lacks or lost.
func (c *Controller) write(ctx context.Context, svc *corev1.Service, have []netip.Addr, refused *refusal) error {
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = ingress(svc, have)
	said := metav1.Condition{
		Type: v1alpha1.AddressAssigned, Status: metav1.ConditionTrue, Reason: ReasonAssigned,
		Message: c.describe(have), ObservedGeneration: svc.Generation,
	}
	if refused != nil {
		said.Status, said.Reason, said.Message = metav1.ConditionFalse, refused.reason, refused.message
	}
	if len(have) == 0 {
		meta.RemoveStatusCondition(&want.Status.Conditions, v1alpha1.Announced)
	}
	before := condition(svc)
	changed := before == nil || before.Reason != said.Reason || before.Message != said.Message
	meta.SetStatusCondition(&want.Status.Conditions, said)
	if !changed && sameIngress(svc, want) {
		return nil
	}
	if !c.chosen(key{service: serviceKey(svc)}) {
		return nil
	}
	if _, err := c.o.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // its claims go with what is heard next
		}
		return fmt.Errorf("write addresses of service %s: %w", serviceKey(svc), err)
	}
	c.o.Logger.Info("load-balancer addresses", "service", serviceKey(svc), "addresses", have, "reason", said.Reason)
	if a, to := c.claimedBy(svc); to != "" && sharingKey(svc) == "" {
		delete(c.displaced, serviceKey(svc))
		return c.warn(ctx, svc, ReasonReallocated, fmt.Sprintf("%s was given to two services while parts of the cell could not see each other; "+
			"%s claimed it first and keeps it; %s", a, nameOf(to), c.nowHas(have, refused)))
	}
	if refused != nil && changed {
		return c.warn(ctx, svc, refused.reason, refused.message)
	}
	return nil
}

func (c *Controller) warn(ctx context.Context, svc *corev1.Service, reason, message string) error {
	return c.o.Warn(ctx, corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID}, reason, message)
}

// ingress is the list for the status. What others keep in an entry (ports)
// stays while its address does.
func ingress(svc *corev1.Service, have []netip.Addr) []corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeVIP
	var out []corev1.LoadBalancerIngress
	for _, a := range have {
		entry := corev1.LoadBalancerIngress{IP: a.String()}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IP == entry.IP {
				entry = *in.DeepCopy()
			}
		}
		entry.IPMode = &mode
		out = append(out, entry)
	}
	return out
}

func sameIngress(a, b *corev1.Service) bool {
	return slices.EqualFunc(a.Status.LoadBalancer.Ingress, b.Status.LoadBalancer.Ingress, func(x, y corev1.LoadBalancerIngress) bool {
		return x.IP == y.IP && x.Hostname == y.Hostname && (x.IPMode == nil) == (y.IPMode == nil) && (x.IPMode == nil || *x.IPMode == *y.IPMode)
	})
}

// nowHas says what a service that lost an address has in its place.
func (c *Controller) nowHas(have []netip.Addr, refused *refusal) string {
	var parts []string
	if len(have) > 0 {
		parts = append(parts, "this service now has "+c.describe(have))
	}
	if refused != nil {
		parts = append(parts, "it gets no other: "+refused.message)
	}
	return strings.Join(parts, "; ")
}

// describe says which addresses these are and of which pools.
func (c *Controller) describe(have []netip.Addr) string {
	var parts []string
	for _, a := range have {
		part := a.String()
		for _, p := range c.pools.all() {
			if p.contains(a) {
				part += " of AddressPool " + p.Name
				break
			}
		}
		parts = append(parts, part)
	}
	return list(parts)
}

// freeReplaced gives back what the service held and has no more.
func (c *Controller) freeReplaced(svc *corev1.Service, held, have []netip.Addr) error {
	for _, a := range held {
		if slices.Contains(have, a) {
			continue
		}
		if !c.chosen(key{service: serviceKey(svc)}) {
			return nil
		}
		if err := c.free(a); err != nil {
			return err
		}
		c.queue.Add(key{})
		c.countPools()
	}
	return nil
}

// withdraw takes our word back from a service that is not ours any more: its
// type or class changed. The API server empties the status of other types; an
// address of ours that is still there is in stale.
func (c *Controller) withdraw(ctx context.Context, svc *corev1.Service, stale []netip.Addr) error {
	if !hasCondition(svc) {
		return nil
	}
	if !c.chosen(key{service: serviceKey(svc)}) {
		return nil
	}
	want := svc.DeepCopy()
	meta.RemoveStatusCondition(&want.Status.Conditions, v1alpha1.AddressAssigned)
	meta.RemoveStatusCondition(&want.Status.Conditions, v1alpha1.Announced)
	want.Status.LoadBalancer.Ingress = slices.DeleteFunc(want.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := netip.ParseAddr(in.IP)
		return err == nil && slices.Contains(stale, a.Unmap())
	})
	_, err := c.o.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take back addresses of service %s: %w", serviceKey(svc), err)
	}
	return nil
}

func list(of []string) string { return strings.Join(of, ", ") }
