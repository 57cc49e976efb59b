package elect

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/api/loadbalancer/v1alpha1"
)

// view is what an election is held upon.
type view struct {
	// stable are those of the living that have been ready for a while.
	alive, stable []string
	// since orders hosts by when they became ready, as they say themselves, so that
	// all hosts know the same; those that do not say are missing. Their clocks may be
	// wrong: it is compared with others of its kind, never with a clock.
	since    map[string]time.Time
	excluded map[string]bool
	links    map[string][]netip.Prefix // by host, living or not
}

// isExcluded: an administrator keeps the host out, or it drains.
func isExcluded(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	_, leaving := n.Annotations[v1alpha1.Leaving]
	return excluded || leaving
}

func (c *Controller) view() view {
	v := view{alive: c.o.Alive(), since: map[string]time.Time{}, excluded: map[string]bool{}, links: map[string][]netip.Prefix{}}
	says := map[string]bool{}                     // that it is stable
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	for _, n := range nodes {
		if isExcluded(n) {
			v.excluded[n.Name] = true
		}
		if links := parseLinks(n.Annotations[v1alpha1.Links]); len(links) > 0 {
			v.links[n.Name] = links
		}
		since, err := time.Parse(time.RFC3339Nano, n.Annotations[v1alpha1.AnnouncesSince])
		if err != nil {
			continue
		}
		v.since[n.Name] = since
		// What this host's own Node says may be of an earlier daemon.
		says[n.Name] = n.Annotations[v1alpha1.AnnouncesStable] == n.Annotations[v1alpha1.AnnouncesSince] && (n.Name != c.o.Self || since.Equal(c.since))
	}
	v.since[c.o.Self] = c.since
	v.stable = c.stable(v.alive, says)
	return v
}

// sinceNow is the time, or if a host was ready at a later one by its own clock, just
// after that: so who comes later is later whatever the clocks say (Lamport, "Time,
// Clocks, and the Ordering of Events", 1978).
func (c *Controller) sinceNow() time.Time {
	now := c.o.Now().UTC()
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	for _, n := range nodes {
		if since, err := time.Parse(time.RFC3339Nano, n.Annotations[v1alpha1.AnnouncesSince]); err == nil && !since.Before(now) {
			now = since.Add(1)
		}
	}
	return now.Round(0)
}

// isStable tells whether this host has been ready for a while; if not it has all
// looked at again by then.
func (c *Controller) isStable() bool {
	if time.Since(c.started) >= c.o.StableFor {
		return true
	}
	c.lookWhenRipe(c.o.Self, c.started.Add(c.o.StableFor))
	return false
}

// stable are those of the living that say that they have been ready for a while, this
// host among them, and that did not come back just now. It has all looked at again
// when there may be more.
func (c *Controller) stable(alive []string, says map[string]bool) []string {
	now := time.Now()
	first := c.seen == nil
	if first {
		c.seen = map[string]time.Time{}
	}
	maps.DeleteFunc(c.seen, func(name string, _ time.Time) bool { return !slices.Contains(alive, name) })
	var out []string
	for _, name := range alive {
		if _, known := c.seen[name]; !known && first {
			c.seen[name] = time.Time{}
		} else if !known {
			c.seen[name] = now
		}
		if !says[name] {
			continue
		}
		if back := c.seen[name]; now.Sub(back) >= c.o.StableFor {
			out = append(out, name)
		} else {
			c.lookWhenRipe(name, back.Add(c.o.StableFor))
		}
	}
	return out
}

func (c *Controller) lookWhenRipe(name string, at time.Time) {
	if !at.Equal(c.ripens[name]) {
		c.ripens[name] = at
		time.AfterFunc(time.Until(at), func() { c.look("") })
	}
}

// announcer elects among the stable. Without any it is the host that has been ready
// for longest: as when all of a cell starts at once, and each knows that of all
// others before it knows that they are stable.
func (v view) announcer(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, a netip.Addr) string {
	can := func(hosts []string) []string {
		return OnLink(a, Candidates(svc, endpoints, hosts, v.excluded), v.links)
	}
	if who := Announcer(a, can(v.stable)); who != "" {
		return who
	}
	return Announcer(a, v.eldest(can(v.alive)))
}

// eldest are those of the hosts that have been ready for longest: one, unless none
// says since when.
func (v view) eldest(hosts []string) []string {
	var first time.Time
	for _, name := range hosts {
		if since, says := v.since[name]; says && (first.IsZero() || since.Before(first)) {
			first = since
		}
	}
	if first.IsZero() {
		return hosts
	}
	return slices.DeleteFunc(hosts, func(name string) bool { return !v.since[name].Equal(first) })
}

// OnLink are those of the hosts whose links have the address in their network.
// For an address that is in no host's network all of them are: a router sends it
// to hosts, and nobody asks for it on a link.
func OnLink(a netip.Addr, hosts []string, links map[string][]netip.Prefix) []string {
	has := func(name string) bool {
		return slices.ContainsFunc(links[name], func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for name := range links {
		if has(name) {
			return slices.DeleteFunc(slices.Clone(hosts), func(name string) bool { return !has(name) })
		}
	}
	return hosts
}

// Links are written as prefixes with commas between them.
func parseLinks(s string) []netip.Prefix {
	var out []netip.Prefix
	for _, word := range strings.Split(s, ",") {
		if p, err := netip.ParsePrefix(word); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func formatLinks(links []netip.Prefix) string {
	words := make([]string, len(links))
	for i, p := range links {
		words[i] = p.Masked().String()
	}
	return joined(words)
}

func formatHardware(macs []net.HardwareAddr) string {
	words := make([]string, len(macs))
	for i, mac := range macs {
		words[i] = mac.String()
	}
	return joined(words)
}

func joined(words []string) string {
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ",")
}
