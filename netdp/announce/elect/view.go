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
	// stable are those of the living that have lived for a while.
	alive, stable []string
	excluded      map[string]bool
	links         map[string][]netip.Prefix // by host, living or not
}

// isExcluded: an administrator keeps the host out, or it drains.
func isExcluded(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	_, leaving := n.Annotations[v1alpha1.Leaving]
	return excluded || leaving
}

func (c *Controller) view() view {
	v := view{alive: c.o.Alive(), excluded: map[string]bool{}, links: map[string][]netip.Prefix{}}
	v.stable = c.stable(v.alive)
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	for _, n := range nodes {
		if isExcluded(n) {
			v.excluded[n.Name] = true
		}
		if links := parseLinks(n.Annotations[v1alpha1.Links]); len(links) > 0 {
			v.links[n.Name] = links
		}
	}
	return v
}

// stable are those of the living that have lived for a while. It has all looked
// at again when that may have changed. Whom this host finds alive when it starts
// has lived before; it itself has not.
func (c *Controller) stable(alive []string) []string {
	now := time.Now()
	if len(c.since) == 0 {
		for _, name := range alive {
			if name != c.o.Self {
				c.since[name] = now.Add(-stableFor)
			}
		}
	}
	maps.DeleteFunc(c.since, func(name string, _ time.Time) bool { return !slices.Contains(alive, name) })
	var out []string
	for _, name := range alive {
		if _, known := c.since[name]; !known {
			c.since[name] = now
			time.AfterFunc(stableFor, func() { c.look("") })
		}
		if now.Sub(c.since[name]) >= stableFor {
			out = append(out, name)
		}
	}
	return out
}

// announcer elects among the stable, without any among all that live.
func (v view) announcer(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, a netip.Addr) string {
	for _, hosts := range [][]string{v.stable, v.alive} {
		if who := Announcer(a, OnLink(a, Candidates(svc, endpoints, hosts, v.excluded), v.links)); who != "" {
			return who
		}
	}
	return ""
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
