package netdp

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// programToPod is where the maps have the program that judges and hands over what
// is for a pod (bpf/packet.h).
const programToPod = 0

// policyMaps writes the maps of bpf/policy.h. Its owner guards it.
type policyMaps struct {
	ports    *mirror[tables.PortKey, struct{}]
	rules    *mirror[tables.RuleKey, tables.ID]
	blocks   *mirror[tables.BlockKey, tables.ID]
	peers    *mirror[netip.Addr, tables.ID]
	subjects *mirror[netip.Addr, tables.Subject]
	revision *ebpf.Map
	current  uint32
	// owed: something may be forbidden now, and connections could not yet be told
	// to be judged again.
	owed bool
	// nodes are this host's addresses as they were listed last.
	nodes map[netip.Addr]bool
}

// openPolicyMaps takes over what an earlier daemon left.
func openPolicyMaps(maps map[string]*ebpf.Map) (*policyMaps, error) {
	id := func(v tables.ID) any { return uint64(v) }
	addr := func(a netip.Addr) any { return wireAddr(a) }
	p := &policyMaps{
		ports: newMirror("policy ports", maps[bpf.DatapathMapPolicyPorts],
			portKey, func(struct{}) any { return uint32(1) }),
		rules: newMirror("policy rules", maps[bpf.DatapathMapPolicyRules],
			func(k tables.RuleKey) any {
				return bpf.DatapathPolicyRuleKey{Set: uint64(k.Set), Peer: uint64(k.Peer)}
			}, id),
		blocks: newMirror("policy blocks", maps[bpf.DatapathMapPolicyBlocks], blockKey, id),
		peers:  newMirror("policy peers", maps[bpf.DatapathMapPolicyPeers], addr, id),
		subjects: newMirror("policy subjects", maps[bpf.DatapathMapPolicySubjects], addr,
			func(s tables.Subject) any {
				return bpf.DatapathPolicySubject{Set: [2]uint64{uint64(s.Ingress), uint64(s.Egress)}}
			}),
		revision: maps[bpf.DatapathMapPolicyRevision],
	}
	err := errors.Join(p.revision.Lookup(uint32(0), &p.current), p.adopt())
	return p, named("read policies in kernel", err)
}

func (p *policyMaps) adopt() error {
	return errors.Join(
		eachEntry(p.ports.m, func(k bpf.DatapathPolicyPortKey, _ uint32) {
			bits := k.Bits - portBits
			p.ports.adopt(tables.PortKey{
				Profile: idOf(k.Profile), Protocol: uint8(wirePort(k.Proto)), Port: wirePort(k.Port), Bits: uint8(bits),
			}, struct{}{})
		}),
		eachEntry(p.rules.m, func(k bpf.DatapathPolicyRuleKey, profile uint64) {
			p.rules.adopt(tables.RuleKey{Set: tables.ID(k.Set), Peer: tables.ID(k.Peer)}, tables.ID(profile))
		}),
		eachEntry(p.blocks.m, func(k bpf.DatapathPolicyBlockKey, profile uint64) {
			p.blocks.adopt(tables.BlockKey{Set: idOf(k.Set), Range: rangeOf(k)}, tables.ID(profile))
		}),
		eachEntry(p.peers.m, func(k [4]uint32, id uint64) { p.peers.adopt(addrFromWire(k), tables.ID(id)) }),
		eachEntry(p.subjects.m, func(k [4]uint32, s bpf.DatapathPolicySubject) {
			p.subjects.adopt(addrFromWire(k), tables.Subject{Ingress: tables.ID(s.Set[0]), Egress: tables.ID(s.Set[1])})
		}),
	)
}

// eachEntry reads maps of every kind; not all can be read in batches.
func eachEntry[K, V any](m *ebpf.Map, f func(K, V)) error {
	var key K
	var value V
	it := m.Iterate()
	for it.Next(&key, &value) {
		f(key, value)
	}
	return it.Err()
}

// write puts what is wanted into effect: profiles before the rules that name
// them, rules before the peers and subjects that have them, and only then takes
// away. So nobody is judged by half a set. When all is written, connections are
// judged again if anything may forbid now what was allowed; where that fails, the
// next write tries it again.
func (p *policyMaps) write() error {
	var errs []error
	for _, step := range []struct {
		do      func() (bool, error)
		forbids bool // a change of this kind may
	}{
		{p.ports.put, false}, {p.rules.put, true}, {p.blocks.put, true}, {p.peers.put, true}, {p.putSubjects, true},
		{p.subjects.clear, false}, {p.peers.clear, true}, {p.rules.clear, true}, {p.blocks.clear, true}, {p.ports.clear, false},
	} {
		changed, err := step.do()
		p.owed = p.owed || changed && step.forbids
		errs = append(errs, err)
	}
	if p.owed {
		errs = append(errs, p.judgeAgain())
	}
	return errors.Join(errs...)
}

// putSubjects: also a pod that was not isolated before may be called less.
func (p *policyMaps) putSubjects() (bool, error) {
	before := len(p.subjects.have)
	changed, err := p.subjects.put()
	return changed || len(p.subjects.have) != before, err
}

// holds tells whether the kernel has pods of these addresses held.
func (p *policyMaps) holds(addrs []netip.Addr) bool {
	for _, addr := range addrs {
		if p.subjects.have[addr] != tables.Held {
			return false
		}
	}
	return true
}

// judgeAgain has every connection judged at its next packet.
func (p *policyMaps) judgeAgain() error {
	if err := p.revision.Put(uint32(0), p.current+1); err != nil {
		return fmt.Errorf("move policy revision: %w", err)
	}
	p.current++
	p.owed = false
	return nil
}

// The bits of a key that come before those that may be left out.
const (
	blockBits = 64
	portBits  = 80
)

func words(id tables.ID) [2]uint32 { return [2]uint32{uint32(id >> 32), uint32(id)} }
func idOf(w [2]uint32) tables.ID   { return tables.ID(w[0])<<32 | tables.ID(w[1]) }

func portKey(k tables.PortKey) any {
	return bpf.DatapathPolicyPortKey{
		Bits: portBits + uint32(k.Bits), Profile: words(k.Profile),
		Proto: wirePort(uint16(k.Protocol)), Port: wirePort(k.Port),
	}
}

// blockKey has IPv4 ranges below ::ffff:0:0/96.
func blockKey(k tables.BlockKey) any {
	bits := k.Range.Bits()
	if k.Range.Addr().Is4() {
		bits += 96
	}
	return bpf.DatapathPolicyBlockKey{Bits: blockBits + uint32(bits), Set: words(k.Set), Addr: wireAddr(k.Range.Addr())}
}

func rangeOf(k bpf.DatapathPolicyBlockKey) netip.Prefix {
	bits := int(k.Bits) - blockBits
	if k.Addr == ([4]uint32{}) {
		return netip.PrefixFrom(netip.IPv6Unspecified(), bits)
	}
	addr := addrFromWire(k.Addr)
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits)
}
