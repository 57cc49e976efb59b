package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// direction is that of traffic, as seen from the pod a policy selects.
type direction int

const (
	ingress direction = iota
	egress
)

func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

// spec is a policy as it was read.
type spec struct {
	namespace string
	pods      labels.Selector
	// sides are the directions in which it isolates; nil: not.
	sides [2]*side
}

// side is what a policy allows in one direction.
type side struct {
	rules []rule
	text  string // equal texts are equal rules
}

// rule allows its peers its ports.
type rule struct {
	anyPeer bool
	peers   []peer
	ports   portSet
	named   []namedPort // of the pod that is called
}

type namedPort struct {
	protocol uint8
	name     string
}

// peer is one of a range of addresses or of pods; nil namespaces are the
// policy's own.
type peer struct {
	block      *block
	namespaces labels.Selector
	pods       labels.Selector // nil: all
}

type block struct {
	within netip.Prefix
	except []netip.Prefix
}

func (b *block) contains(addr netip.Addr) bool {
	return b.within.Contains(addr) && !slices.ContainsFunc(b.except, func(e netip.Prefix) bool { return e.Contains(addr) })
}

// readSpec reads a policy. A rule that cannot be read allows nothing; it is part
// of the error. The spec is nil when nobody can tell whom the policy selects.
func readSpec(p *networkingv1.NetworkPolicy) (*spec, error) {
	pods, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
	if err != nil {
		return nil, fmt.Errorf("read network policy %s/%s: pod selector: %w", p.Namespace, p.Name, err)
	}
	s := &spec{namespace: p.Namespace, pods: pods}
	var errs []error
	for _, d := range directionsOf(p) {
		s.sides[d], err = readSide(p, d)
		if err != nil {
			errs = append(errs, fmt.Errorf("read network policy %s/%s: %w", p.Namespace, p.Name, err))
		}
	}
	return s, errors.Join(errs...)
}

// directionsOf: a policy that names no types isolates for ingress, and for
// egress when it has rules for that.
func directionsOf(p *networkingv1.NetworkPolicy) []direction {
	if len(p.Spec.PolicyTypes) == 0 {
		if len(p.Spec.Egress) > 0 {
			return []direction{ingress, egress}
		}
		return []direction{ingress}
	}
	var out []direction
	for d, name := range []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress} {
		if slices.Contains(p.Spec.PolicyTypes, name) {
			out = append(out, direction(d))
		}
	}
	return out
}

func readSide(p *networkingv1.NetworkPolicy, d direction) (*side, error) {
	out := &side{}
	var errs []error
	read := func(i int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		r, err := readRule(peers, ports)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s rule %d: %w", d, i+1, err))
		}
		out.rules = append(out.rules, r)
	}
	var all any
	if d == ingress {
		for i, r := range p.Spec.Ingress {
			read(i, r.From, r.Ports)
		}
		all = p.Spec.Ingress
	} else {
		for i, r := range p.Spec.Egress {
			read(i, r.To, r.Ports)
		}
		all = p.Spec.Egress
	}
	text, err := json.Marshal(all)
	out.text = string(text)
	return out, errors.Join(append(errs, err)...)
}

func readRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (rule, error) {
	out := rule{anyPeer: len(peers) == 0}
	var errs []error
	for i := range peers {
		p, err := readPeer(&peers[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("peer %d: %w", i+1, err))
			continue
		}
		out.peers = append(out.peers, p)
	}
	if len(ports) == 0 {
		out.ports.all = true
	}
	for i := range ports {
		if err := out.addPort(&ports[i]); err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", i+1, err))
		}
	}
	out.ports.merge()
	return out, errors.Join(errs...)
}

func (r *rule) addPort(p *networkingv1.NetworkPolicyPort) error {
	protocol := uint8(protocolTCP)
	if p.Protocol != nil {
		protocol = protocolNumber(*p.Protocol)
	}
	switch {
	case p.Port == nil:
		r.ports.add(span{protocol, 0, 65535})
	case p.Port.Type == intstr.String:
		r.named = append(r.named, namedPort{protocol, p.Port.StrVal})
	default:
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if p.Port.IntVal < 0 || last > 65535 || last < p.Port.IntVal {
			return fmt.Errorf("%d to %d is no range of ports", p.Port.IntVal, last)
		}
		r.ports.add(span{protocol, uint16(p.Port.IntVal), uint16(last)})
	}
	return nil
}

func readPeer(p *networkingv1.NetworkPolicyPeer) (out peer, err error) {
	if p.IPBlock != nil {
		out.block, err = readBlock(p.IPBlock)
		return out, err
	}
	if p.PodSelector == nil && p.NamespaceSelector == nil {
		return out, errors.New("it is neither a selector nor a block of addresses")
	}
	if p.PodSelector != nil {
		if out.pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
			return out, fmt.Errorf("pod selector: %w", err)
		}
	}
	if p.NamespaceSelector != nil {
		if out.namespaces, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector); err != nil {
			return out, fmt.Errorf("namespace selector: %w", err)
		}
	}
	return out, nil
}

func readBlock(b *networkingv1.IPBlock) (*block, error) {
	within, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("block: %w", err)
	}
	out := &block{within: within.Masked()}
	for _, text := range b.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("exception of block %s: %w", b.CIDR, err)
		}
		out.except = append(out.except, except.Masked())
	}
	return out, nil
}

// asks reports the label keys of pods and the names of ports that the policy
// looks at.
func (s *spec) asks(key, name func(string)) {
	each := func(sel labels.Selector) {
		if sel == nil {
			return
		}
		requirements, _ := sel.Requirements()
		for _, r := range requirements {
			key(r.Key())
		}
	}
	each(s.pods)
	for _, side := range s.sides {
		if side == nil {
			continue
		}
		for _, r := range side.rules {
			for _, p := range r.peers {
				each(p.pods)
			}
			for _, n := range r.named {
				name(n.name)
			}
		}
	}
}

// namesPortsOfBlocks tells whether an egress rule names a port for a range of
// addresses.
func (s *spec) namesPortsOfBlocks() bool {
	return s.sides[egress] != nil && slices.ContainsFunc(s.sides[egress].rules, func(r rule) bool {
		return len(r.named) > 0 && slices.ContainsFunc(r.peers, func(p peer) bool { return p.block != nil })
	})
}

// selects tells whether a pod of these labels in a namespace is this peer, of a
// policy in namespace own. A namespace that is not known has no labels.
func (p *peer) selects(own, namespace string, namespaceLabels, podLabels labels.Set) bool {
	if p.block != nil {
		return false
	}
	if p.namespaces == nil {
		if namespace != own {
			return false
		}
	} else if !p.namespaces.Matches(namespaceLabels) {
		return false
	}
	return p.pods == nil || p.pods.Matches(podLabels)
}
