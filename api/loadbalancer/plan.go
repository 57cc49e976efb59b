package loadbalancer

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Reasons of the condition v1alpha1.AddressAssigned.
const (
	ReasonAssigned = "Assigned"
	// ReasonNoPool: there is no pool for the service.
	ReasonNoPool = "NoAddressPool"
	// ReasonEmpty: the pools for it have no free address.
	ReasonEmpty = "AddressPoolEmpty"
	// ReasonTaken: another service has the address it wants.
	ReasonTaken = "AddressTaken"
	// ReasonNotInPool: the address it wants is in no pool that is for it.
	ReasonNotInPool = "AddressNotInPool"
	// ReasonInUse: a host, or the cell itself, has the address it wants.
	ReasonInUse = "AddressInUse"
	// ReasonEnding: the service is being deleted, so it gets no new address.
	ReasonEnding = "ServiceEnding"
	// ReasonBadWish: what it wants cannot be read.
	ReasonBadWish = "WantedAddressInvalid"
)

// refusal is why a service does not get what it should.
type refusal struct{ reason, message string }

func (r *refusal) Error() string { return r.message }

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// cell is what a plan is made from, beside the service.
type cell struct {
	pools     []Pool // in the order of sortPools
	namespace labels.Set
	// owner tells who has claimed an address: empty, an owner, or "" and true
	// for one that has not been heard of yet.
	owner func(netip.Addr) (owner string, claimed bool)
	// share tells whether the service may have an address that another one has
	// claimed, and if not, why, if there is anything to say; nil: it may not.
	share func(netip.Addr) (ok bool, why string)
	// used tells what else has an address that a pool has by mistake: a host, or
	// the cell's own ranges; empty if nothing does.
	used func(netip.Addr) string
	// own are the cell's own ranges, of which nothing is drawn.
	own []netip.Prefix
	// taken counts the addresses that cannot be had: of claims and of hosts.
	taken int
}

func (c cell) shares(a netip.Addr) (ok bool, why string) {
	if c.share == nil {
		return false, ""
	}
	return c.share(a)
}

// spareTries is for addresses that are claimed while others are being tried.
const spareTries = 1024

// choice is what is to become of one family of a service.
type choice struct {
	family corev1.IPFamily
	// keep is the address it has and may keep, if valid.
	keep netip.Addr
	// draw yields the addresses to try else, in order.
	draw iter.Seq[netip.Addr]
	// may tells what could be drawn; set where draw is.
	may func(netip.Addr) bool
	// none is why when all of draw are taken.
	none *refusal
}

// plan says what is to become of a service that isOurs. held are the addresses
// that claims name it the owner of.
func plan(svc *corev1.Service, held []netip.Addr, c cell) ([]choice, error) {
	w, err := wishOf(svc)
	if err != nil {
		return nil, refuse(ReasonBadWish, "%v", err)
	}
	pools := poolsFor(svc, w, c)
	var out []choice
	of, _ := families(svc)
	for _, family := range of {
		one := choice{family: family}
		if wanted, ok := w.addresses[family]; ok {
			one.wanted(wanted, held, pools, c)
		} else {
			one.any(svc, w, held, pools, c)
		}
		out = append(out, one)
	}
	return out, nil
}

// poolsFor are the pools that serve svc.
func poolsFor(svc *corev1.Service, w wish, c cell) []Pool {
	return slices.DeleteFunc(slices.Clone(c.pools), func(p Pool) bool {
		return !p.serves(svc, c.namespace) || w.pool != "" && p.Name != w.pool
	})
}

// wanted is for a family with a wish.
func (o *choice) wanted(wanted netip.Addr, held []netip.Addr, pools []Pool, c cell) {
	if !slices.ContainsFunc(pools, func(p Pool) bool { return p.contains(wanted) }) {
		o.none = refuse(ReasonNotInPool, "the wanted address %s is in no AddressPool that is for this service; "+
			"see `shoal get addresspools`, and add it to one or ask for another", wanted)
		return
	}
	if by := c.used(wanted); by != "" {
		o.none = refuse(ReasonInUse, "the wanted address %s is %s; ask for another, and take it out of the AddressPool", wanted, by)
		return
	}
	if slices.Contains(held, wanted) {
		o.keep = wanted
		return
	}
	shared, why := c.shares(wanted)
	if shared {
		o.keep = wanted
		return
	}
	owner, _ := c.owner(wanted)
	if owner == "" {
		owner = "another service"
	} else {
		owner = "service " + nameOf(owner)
	}
	if why != "" {
		o.none = refuse(ReasonTaken, "the wanted address %s belongs to %s and cannot be shared with it: %s; ask for another", wanted, owner, why)
		return
	}
	o.draw = slices.Values([]netip.Addr{wanted})
	o.may = func(a netip.Addr) bool { return a == wanted }
	o.none = refuse(ReasonTaken, "the wanted address %s belongs to %s; ask for another, delete that one, "+
		"or give both the annotation shoal.dev/sharing-key with one value where their ports differ", wanted, owner)
}

// any is for a family without a wish. What the service has it keeps as long as
// a pool has it for this service.
func (o *choice) any(svc *corev1.Service, w wish, held []netip.Addr, pools []Pool, c cell) {
	for _, a := range held {
		if familyOf(a) == o.family && c.used(a) == "" && slices.ContainsFunc(pools, func(p Pool) bool { return p.contains(a) }) {
			o.keep = a
			return
		}
	}
	pools = slices.DeleteFunc(slices.Clone(pools), func(p Pool) bool {
		return !p.has(o.family) || !p.AutoAssign && w.pool != p.Name
	})
	if len(pools) == 0 {
		o.none = refuse(ReasonNoPool, "no AddressPool has %s addresses for this service; make one (see `shoal explain addresspool.spec`), "+
			"or have the selectors of one match", o.family)
		return
	}
	var names []string
	ranges := 0
	for i, p := range pools {
		names = append(names, p.Name)
		pools[i] = p.outside(c.own)
		ranges += len(pools[i].Ranges)
	}
	if !slices.ContainsFunc(pools, func(p Pool) bool { return p.has(o.family) }) {
		o.none = refuse(ReasonEmpty, "all %s addresses of AddressPool %s are in the cell's own ranges, of pods and cluster IPs; "+
			"add a range outside of them", o.family, list(names))
		return
	}
	o.none = refuse(ReasonEmpty, "all %s addresses of AddressPool %s are taken; add a range, or delete services of type LoadBalancer", o.family, list(names))
	o.may = func(a netip.Addr) bool {
		return familyOf(a) == o.family && c.used(a) == "" && slices.ContainsFunc(pools, func(p Pool) bool { return p.contains(a) })
	}
	// Each address that cannot be had comes at most once of each range.
	tries := (c.taken + spareTries) * ranges
	o.draw = func(yield func(netip.Addr) bool) {
		left := tries
		for _, p := range pools {
			for a := range p.drawn(o.family, string(svc.UID)) {
				if left == 0 {
					return
				}
				left--
				if c.used(a) == "" && !yield(a) {
					return
				}
			}
		}
	}
}
