package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"shoal/netdp/policy/tables"
)

// compiler makes the rules that pods of this host need.
type compiler struct {
	x        *Index
	out      *tables.Rules
	sets     ids
	made     map[tables.ID]struct{} // sets that are written
	profiles ids
}

// compile makes all rules anew, and the subject of each identity that has pods on
// this host.
func (x *Index) compile() *tables.Rules {
	c := &compiler{
		x: x, sets: ids{}, made: map[tables.ID]struct{}{}, profiles: ids{},
		out: &tables.Rules{Peers: map[tables.RuleKey]tables.ID{}, Blocks: map[tables.BlockKey]tables.ID{}, Ports: map[tables.PortKey]struct{}{}},
	}
	here := map[string]*identity{}
	for uid := range x.attached {
		if state := x.podOf(uid); state != nil && state.identity != nil {
			here[state.identity.text] = state.identity
		}
	}
	for _, id := range x.identities {
		id.subject = nil
	}
	for _, text := range slices.Sorted(maps.Keys(here)) { // so that numbers come out alike each time
		id := here[text]
		id.subject = &tables.Subject{Ingress: c.set(ingress, id), Egress: c.set(egress, id)}
	}
	return c.out
}

// set is all that policies allow an identity in a direction. Its number stands
// for the rules and what they depend on, so a pod changes from one policy to
// another in one write.
func (c *compiler) set(d direction, id *identity) tables.ID {
	var sides []*side
	for _, s := range c.x.policies[id.namespace] {
		if s.sides[d] != nil && s.pods.Matches(id.labels) {
			sides = append(sides, s.sides[d])
		}
	}
	if len(sides) == 0 {
		return tables.NoSet
	}
	slices.SortFunc(sides, func(a, b *side) int { return strings.Compare(a.text, b.text) })
	text := fmt.Sprintf("%s %q", d, id.namespace)
	for _, s := range sides {
		text += "\n" + s.text
	}
	if d == ingress {
		text += "\n" + id.portText
	}
	set := c.sets.of(text)
	if _, made := c.made[set]; !made {
		c.made[set] = struct{}{}
		c.write(set, d, id, sides)
	}
	return set
}

func (c *compiler) write(set tables.ID, d direction, subject *identity, sides []*side) {
	var rules []*rule
	for _, s := range sides {
		for i := range s.rules {
			rules = append(rules, &s.rules[i])
		}
	}
	for _, other := range c.x.identities {
		called := subject
		if d == egress {
			called = other
		}
		var ports portSet
		for _, r := range rules {
			// Anybody is a range of all addresses; but which number a port's name
			// is in egress depends on who is called.
			if r.anyPeer && d == egress {
				ports.add(r.namedOf(called)...)
			}
			if c.selects(r, subject.namespace, other) {
				ports.join(r.ports)
				ports.add(r.namedOf(called)...)
			}
		}
		if !ports.empty() {
			c.out.Peers[tables.RuleKey{Set: set, Peer: other.id}] = c.profile(ports)
		}
	}
	var blocks []blockPorts
	for _, r := range rules {
		ports := r.ports
		if d == ingress {
			ports = portSet{all: ports.all, spans: slices.Clone(ports.spans)}
			ports.add(r.namedOf(subject)...)
		}
		if r.anyPeer {
			blocks = append(blocks, blockPorts{&block{within: anyIPv4}, ports}, blockPorts{&block{within: anyIPv6}, ports})
		}
		for i := range r.peers {
			if b := r.peers[i].block; b != nil {
				blocks = append(blocks, blockPorts{b, ports})
				if d == egress {
					blocks = append(blocks, c.podsIn(b, r)...)
				}
			}
		}
	}
	for at, ports := range flatten(blocks) {
		c.out.Blocks[tables.BlockKey{Set: set, Range: at}] = c.profile(ports)
	}
}

// podsIn are the pods in a block that have a port which the rule names, each a
// block of its own.
func (c *compiler) podsIn(b *block, r *rule) (out []blockPorts) {
	if len(r.named) == 0 {
		return nil
	}
	for addr := range c.x.addrs {
		id := c.x.owner(addr)
		if id == nil || !b.contains(addr) {
			continue
		}
		if named := r.namedOf(id); len(named) > 0 {
			out = append(out, blockPorts{&block{within: netip.PrefixFrom(addr, addr.BitLen())}, portSet{spans: named}})
		}
	}
	return out
}

func (c *compiler) selects(r *rule, own string, other *identity) bool {
	for i := range r.peers {
		if r.peers[i].selects(own, other.namespace, c.x.namespaces[other.namespace], other.labels) {
			return true
		}
	}
	return false
}

// namedOf are the rule's named ports as the pod that is called has them.
func (r *rule) namedOf(called *identity) (out []span) {
	for _, n := range r.named {
		for _, p := range called.ports {
			if p.Name == n.name && p.Protocol == n.protocol {
				out = append(out, span{p.Protocol, p.Port, p.Port})
			}
		}
	}
	return out
}

func (c *compiler) profile(ports portSet) tables.ID {
	ports.merge()
	switch {
	case ports.all:
		return tables.AllProfile
	case ports.empty():
		return tables.NoProfile
	}
	text := ports.String()
	before := len(c.profiles)
	id := c.profiles.of(text)
	if len(c.profiles) > before {
		portsOf(id, &ports, c.out.Ports)
	}
	return id
}

var (
	anyIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	anyIPv6 = netip.MustParsePrefix("::/0")
)

// blockPorts is a range of addresses and what is allowed with it.
type blockPorts struct {
	*block
	ports portSet
}

// flatten cuts ranges, and the exceptions in them, so that the smallest one
// around an address says all about it. Ranges are nested or apart, so it is
// enough to look at each one's borders. Both families have their root, or an
// IPv6 range of everything would have IPv4's addresses in it.
func flatten(blocks []blockPorts) map[netip.Prefix]portSet {
	if len(blocks) == 0 {
		return nil
	}
	starts := map[netip.Prefix][]*blockPorts{}
	out := map[netip.Prefix]portSet{anyIPv4: {}, anyIPv6: {}}
	for i := range blocks {
		b := &blocks[i]
		starts[b.within] = append(starts[b.within], b)
		out[b.within] = portSet{}
		for _, except := range b.except {
			out[except] = portSet{}
		}
	}
	for at := range out {
		var ports portSet
		for bits := at.Bits(); bits >= 0; bits-- {
			around, _ := at.Addr().Prefix(bits)
			for _, b := range starts[around] {
				if b.covers(at) {
					ports.join(b.ports)
				}
			}
		}
		out[at] = ports
	}
	return out
}

// covers tells whether a range within the block is in no exception.
func (b *block) covers(at netip.Prefix) bool {
	return !slices.ContainsFunc(b.except, func(e netip.Prefix) bool {
		return e.Bits() <= at.Bits() && e.Contains(at.Addr())
	})
}
