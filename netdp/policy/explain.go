package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Cell is what verdicts depend on, as the API has it.
type Cell struct {
	Namespaces []corev1.Namespace
	Policies   []networkingv1.NetworkPolicy
}

// Party is one end of a connection: a pod, an address, or the world outside.
type Party struct {
	// Pod is nil for what is no pod.
	Pod *corev1.Pod
	// Addr is what blocks of addresses are compared with. Invalid: an address
	// outside the cell that is only in blocks of all addresses.
	Addr netip.Addr
	// Node says that the address is of this node, empty: of none.
	Node string
	// OwnHost says that every pod's own host answers at the address: that of the
	// cluster DNS.
	OwnHost bool
}

// subject tells whether policies can isolate the party.
func (p Party) subject() bool { return p.Pod != nil && ownNetwork(p.Pod) }

// Port is what is called.
type Port struct {
	Protocol corev1.Protocol
	Number   uint16
}

// Verdict is whether a connection is allowed, and why.
type Verdict struct {
	Allowed bool
	// Egress is that of who calls, Ingress of who is called.
	Egress, Ingress Judgement
}

// Judgement is the part of a verdict that policies of one pod make.
type Judgement struct {
	Allowed bool
	// Free says why no policy is asked, empty when some are.
	Free string
	// Isolating are the policies that select the pod in this direction.
	Isolating []string
	// Allowing are the rules that allow the connection.
	Allowing []Reason
	// Denying say of each rule why it does not.
	Denying []Reason
}

// Reason is a rule and what it says to a connection.
type Reason struct {
	Policy string
	Rule   int // from 1; 0: the policy has no rules
	Why    string
}

// Explain judges a new connection by the objects themselves.
func (c *Cell) Explain(from, to Party, port Port) Verdict {
	v := Verdict{
		Egress:  c.judge(egress, from, to, to, port),
		Ingress: c.judge(ingress, to, from, to, port),
	}
	v.Allowed = v.Egress.Allowed && v.Ingress.Allowed
	return v
}

func (c *Cell) judge(d direction, self, other, called Party, port Port) Judgement {
	if free := c.free(self, other); free != "" {
		return Judgement{Allowed: true, Free: free}
	}
	var j Judgement
	for _, p := range c.selecting(d, self.Pod) {
		name := p.Namespace + "/" + p.Name
		j.Isolating = append(j.Isolating, name)
		rules := rulesOf(p, d)
		if len(rules) == 0 {
			j.Denying = append(j.Denying, Reason{name, 0, fmt.Sprintf("it has no %s rule", d)})
		}
		for i, r := range rules {
			why, ok := c.ruleAllows(p.Namespace, r, other, called, port)
			if ok {
				j.Allowing = append(j.Allowing, Reason{name, i + 1, why})
			} else {
				j.Denying = append(j.Denying, Reason{name, i + 1, why})
			}
		}
	}
	if len(j.Isolating) == 0 {
		return Judgement{Allowed: true, Free: fmt.Sprintf("no policy selects it for %s", d)}
	}
	j.Allowed = len(j.Allowing) > 0
	return j
}

// free says why nothing isolates self from other whatever policies say.
func (c *Cell) free(self, other Party) string {
	switch {
	case self.Pod == nil:
		return "it is no pod, so no policy selects it"
	case self.Pod.Spec.HostNetwork:
		return "it is in its host's network, where no policy applies"
	case !ownNetwork(self.Pod):
		return "it has ended"
	case other.Pod != nil && other.Pod.UID == self.Pod.UID:
		return "a pod may always call itself"
	case other.Node != "" && other.Node == self.Pod.Spec.NodeName:
		return "a pod and its own node may always call each other"
	case other.OwnHost:
		return "its own node answers there, which a pod may always call"
	}
	return ""
}

// selecting are the policies that isolate a pod in a direction.
func (c *Cell) selecting(d direction, pod *corev1.Pod) (out []*networkingv1.NetworkPolicy) {
	for i := range c.Policies {
		p := &c.Policies[i]
		if p.Namespace != pod.Namespace || !slices.Contains(directionsOf(p), d) {
			continue
		}
		if s, _ := readSpec(p); s != nil && s.pods.Matches(labels.Set(pod.Labels)) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func rulesOf(p *networkingv1.NetworkPolicy, d direction) []rule {
	s, _ := readSpec(p)
	return s.sides[d].rules
}

// ruleAllows tells whether a rule of a policy in namespace own does, and why.
func (c *Cell) ruleAllows(own string, r rule, other, called Party, port Port) (string, bool) {
	why, ok := c.peersAllow(own, r, other)
	if !ok {
		return why, false
	}
	if r.ports.all {
		return why + ", all ports", true
	}
	for _, sp := range r.ports.spans {
		if sp.contains(protocolNumber(port.Protocol), port.Number) {
			return why + ", " + sp.describe(), true
		}
	}
	for _, n := range r.named {
		if called.Pod != nil && n.protocol == protocolNumber(port.Protocol) &&
			slices.Contains(namedPorts(called.Pod), NamedPort{Name: n.name, Protocol: n.protocol, Port: port.Number}) {
			return fmt.Sprintf("%s, port %q", why, n.name), true
		}
	}
	return fmt.Sprintf("%s, but port %d/%s is not among its ports: %s", why, port.Number, port.Protocol, describePorts(r)), false
}

// describePorts lists what a rule that does not allow all ports allows.
func describePorts(r rule) string {
	var out []string
	for _, sp := range r.ports.spans {
		out = append(out, sp.describe())
	}
	for _, n := range r.named {
		out = append(out, fmt.Sprintf("port %q/%s", n.name, protocolName(n.protocol)))
	}
	return strings.Join(out, ", ")
}

// describe writes a span as people do.
func (sp span) describe() string {
	name := protocolName(sp.protocol)
	switch {
	case sp.low == 0 && sp.high == 65535:
		return "all ports of " + string(name)
	case sp.low == sp.high:
		return fmt.Sprintf("port %d/%s", sp.low, name)
	}
	return fmt.Sprintf("ports %d-%d/%s", sp.low, sp.high, name)
}

func (c *Cell) peersAllow(own string, r rule, other Party) (string, bool) {
	if r.anyPeer {
		return "any peer", true
	}
	why := "none of its peers is the other end"
	for i, p := range r.peers {
		if p.block != nil && other.Addr.IsValid() && p.block.within.Contains(other.Addr) {
			for _, e := range p.block.except {
				if e.Contains(other.Addr) {
					why += fmt.Sprintf("; peer %d (block %s) has %s in its except %s", i+1, p.block.within, other.Addr, e)
				}
			}
		}
		if p.block != nil && p.block.has(other.Addr) {
			return fmt.Sprintf("peer %d (block %s)", i+1, p.block.within), true
		}
		if other.subject() && p.selects(own, other.Pod.Namespace, c.namespaceLabels(other.Pod.Namespace), other.Pod.Labels) {
			return fmt.Sprintf("peer %d", i+1), true
		}
	}
	return why, false
}

// has takes an invalid address for one that only blocks of all addresses have.
func (b *block) has(addr netip.Addr) bool {
	if !addr.IsValid() {
		return b.within.Bits() == 0
	}
	return b.contains(addr)
}

func (c *Cell) namespaceLabels(name string) labels.Set {
	for i := range c.Namespaces {
		if c.Namespaces[i].Name == name {
			return c.Namespaces[i].Labels
		}
	}
	return nil
}
