package netdp

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"shoal/bpf"
	"shoal/netdp/policy"
	"shoal/netdp/policy/tables"
)

var changesFor = flag.Duration("changes.for", 0, "how long policies are changed at random; 0: a few rounds")

// randomCell is a cell that changes at random: pods of this host and others,
// namespaces, policies, and the world outside.
type randomCell struct {
	*policyRandom
	naive   naiveCell
	local   []*corev1.Pod // with a network here
	remote  []*corev1.Pod
	outside []string
}

type policyRandom struct{ *rand.Rand }

func pick[T any](r *policyRandom, from ...T) T { return from[r.IntN(len(from))] }

func (r *policyRandom) chance(percent int) bool { return r.IntN(100) < percent }

func (r *policyRandom) labels() map[string]string {
	out := map[string]string{"unasked": fmt.Sprint(r.Uint32())}
	for _, key := range []string{"app", "tier", "env"} {
		if r.chance(70) {
			out[key] = pick(r, "a", "b", "c")
		}
	}
	return out
}

func (r *policyRandom) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if r.chance(25) {
		return s
	}
	if r.chance(60) {
		s.MatchLabels = map[string]string{pick(r, "app", "tier", "env"): pick(r, "a", "b", "c")}
	}
	if r.chance(50) {
		e := metav1.LabelSelectorRequirement{Key: pick(r, "app", "tier", "env", "missing"), Operator: pick(r,
			metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = []string{pick(r, "a", "b"), "c"}
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

var randomRanges = []string{
	"0.0.0.0/0", "10.0.0.0/8", "10.64.0.0/10", "10.64.7.0/24", "10.64.7.0/29", "10.64.7.4/30", "10.64.8.0/24",
	"10.64.8.2/32", "203.0.113.0/24", "203.0.113.0/28", "203.0.113.7/32", "198.51.100.0/25",
	"::/0", "fd00::/8", "fd00:64:7::/64", "fd00:64:7::/125", "fd00:64:8::/64", "fd00:64:8::2/128", "2001:db8::/32", "2001:db8::/96",
}

func (r *policyRandom) block() *networkingv1.IPBlock {
	b := &networkingv1.IPBlock{CIDR: pick(r, randomRanges...)}
	within := netip.MustParsePrefix(b.CIDR)
	for range r.IntN(3) {
		e := netip.MustParsePrefix(pick(r, randomRanges...))
		if within.Contains(e.Addr()) && e.Bits() > within.Bits() { // the API wants that
			b.Except = append(b.Except, e.String())
		}
	}
	return b
}

func (r *policyRandom) peers() (out []networkingv1.NetworkPolicyPeer) {
	for range pick(r, 0, 1, 1, 2, 3) {
		p := networkingv1.NetworkPolicyPeer{}
		switch r.IntN(4) {
		case 0:
			p.IPBlock = r.block()
		case 1:
			p.PodSelector = r.selector()
		case 2:
			p.NamespaceSelector = r.selector()
		case 3:
			p.PodSelector, p.NamespaceSelector = r.selector(), r.selector()
		}
		out = append(out, p)
	}
	return out
}

// randomPorts are near each other so that ranges have borders among them.
var randomPorts = []int32{1, 79, 80, 81, 443, 1000, 1023, 1024, 8080, 8081, 32767, 65535}

func (r *policyRandom) ports() (out []networkingv1.NetworkPolicyPort) {
	for range pick(r, 0, 0, 1, 1, 2, 3) {
		p := networkingv1.NetworkPolicyPort{}
		if r.chance(70) {
			proto := pick(r, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
			p.Protocol = &proto
		}
		switch r.IntN(4) {
		case 0:
			port := intstr.FromString(pick(r, "http", "dns", "none"))
			p.Port = &port
		case 1:
			low, high := pick(r, randomPorts...), pick(r, randomPorts...)
			low, high = min(low, high), max(low, high)
			port := intstr.FromInt32(low)
			p.Port, p.EndPort = &port, &high
		case 2:
			port := intstr.FromInt32(pick(r, randomPorts...))
			p.Port = &port
		}
		out = append(out, p)
	}
	return out
}

func (r *policyRandom) policy(i int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, "n1", "n2", "n3"), Name: fmt.Sprint("policy-", i)}}
	p.Spec.PodSelector = *r.selector()
	p.Spec.PolicyTypes = pick(r, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	for range r.IntN(4) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: r.peers(), Ports: r.ports()})
	}
	for range r.IntN(4) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: r.peers(), Ports: r.ports()})
	}
	return p
}

func (r *policyRandom) pod(name string, addrs ...string) *corev1.Pod {
	pod := podObject(pick(r, "n1", "n2", "n3"), name, r.labels())
	if r.chance(60) {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{
			{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: pick(r, int32(80), 8080)},
			{Name: "dns", Protocol: pick(r, corev1.ProtocolUDP, corev1.ProtocolTCP), ContainerPort: 1000},
		}
	}
	for _, addr := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr})
	}
	return pod
}

// changeSome gives namespaces, pods and policies other contents.
func (c *randomCell) changeSome(x *policy.Index) {
	for _, name := range []string{"n1", "n2", "n3"} {
		if c.chance(20) || c.naive.namespaces[name] == nil {
			c.naive.namespaces[name] = c.labels()
			x.SetNamespace(name, c.naive.namespaces[name])
		}
	}
	for _, list := range [][]*corev1.Pod{c.local, c.remote} {
		for _, pod := range list {
			if c.chance(20) {
				pod.Labels = c.labels()
				x.SetPod(policy.PodOf(pod))
			}
		}
	}
	for i := range 6 {
		if !c.chance(50) {
			continue
		}
		p := c.policy(i)
		c.naive.policies = slices.DeleteFunc(c.naive.policies, func(old *networkingv1.NetworkPolicy) bool {
			if old.Name == p.Name {
				x.DeletePolicy(old.Namespace, old.Name)
			}
			return old.Name == p.Name
		})
		if c.chance(15) {
			continue
		}
		c.naive.policies = append(c.naive.policies, p)
		if err := x.SetPolicy(p); err != nil {
			panic(err)
		}
	}
}

// TestPolicyRandom compares the kernel's verdicts, and those that are explained,
// with the API's text, for cells that change.
func TestPolicyRandom(t *testing.T) {
	rounds, calls := 60, 60
	if testing.Short() {
		rounds = 10
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := dualLab(t)
	d := l.openUntilEnd()
	r := &policyRandom{rand.New(rand.NewPCG(seed, 1))}
	c := &randomCell{policyRandom: r, naive: naiveCell{namespaces: map[string]map[string]string{}},
		outside: []string{"203.0.113.7", "203.0.113.9", "203.0.113.200", "198.51.100.1", "10.64.7.250", "8.8.8.8",
			"2001:db8::7", "2001:db8::1:7", "fd00:64:8::77", "fd00:1::1"}}
	x := policy.NewIndex()
	for i := range 6 {
		name := fmt.Sprint("local-", i)
		_, ip := l.pod(d, name)
		ip6 := d.pods.byUID[name].record.Address6
		c.local = append(c.local, c.pod(name, ip.String(), ip6.String()))
		x.Attach(tables.LocalPod{UID: name, Namespace: c.local[i].Namespace, Name: name, Addrs: []netip.Addr{ip, ip6}})
		c.remote = append(c.remote, c.pod(fmt.Sprint("remote-", i), fmt.Sprint("10.64.8.", i+1), fmt.Sprint("fd00:64:8::", i+1)))
	}
	for _, pod := range slices.Concat(c.local, c.remote) {
		x.SetPod(policy.PodOf(pod))
	}
	allowed, total := 0, 0
	for round, began := 0, time.Now(); round < rounds || time.Since(began) < *changesFor; round++ {
		c.changeSome(x)
		l.must(d.SetPolicy(x.Flush(round == 0)))
		l.comparePolicyMaps(d, c, round)
		for i := range calls {
			ok := l.compareOne(d, c, round, i)
			if t.Failed() {
				policies, _ := json.Marshal(c.naive.policies)
				t.Fatalf("policies: %s\nnamespaces: %v", policies, c.naive.namespaces)
			}
			total++
			if ok {
				allowed++
			}
		}
	}
	t.Logf("%d of %d calls allowed", allowed, total)
	if allowed < total/20 || allowed > total*19/20 {
		t.Errorf("%d of %d calls allowed: the cases say little", allowed, total)
	}
}

// comparePolicyMaps compares the kernel's maps, entry by entry, with what an index
// makes of the objects as they are now: nothing is missing, and nothing is left of
// what was before.
func (l *lab) comparePolicyMaps(d *Datapath, c *randomCell, round int) {
	l.t.Helper()
	x := policy.NewIndex()
	for name, labels := range c.naive.namespaces {
		x.SetNamespace(name, labels)
	}
	for i, pod := range slices.Concat(c.local, c.remote) {
		if i < len(c.local) {
			x.Attach(tables.LocalPod{UID: pod.Name, Namespace: pod.Namespace, Name: pod.Name, Addrs: addrsOf(pod)})
		}
		x.SetPod(policy.PodOf(pod))
	}
	for _, p := range c.naive.policies {
		l.must(x.SetPolicy(p))
	}
	want := x.Flush(true)
	maps.DeleteFunc(want.Subjects, func(_ netip.Addr, s tables.Subject) bool { return s == tables.Subject{} })
	for addr := range d.policy.nodes {
		want.Peers[addr] = tables.NodePeer
	}
	have, err := openPolicyMaps(d.maps)
	l.must(err)
	compareEntries(l.t, round, "subjects", have.subjects.want, want.Subjects)
	compareEntries(l.t, round, "peers", have.peers.want, want.Peers)
	compareEntries(l.t, round, "rules", have.rules.want, want.Rules.Peers)
	compareEntries(l.t, round, "blocks", have.blocks.want, want.Rules.Blocks)
	compareEntries(l.t, round, "ports", have.ports.want, want.Rules.Ports)
}

func addrsOf(pod *corev1.Pod) (out []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		out = append(out, netip.MustParseAddr(ip.IP))
	}
	return out
}

func compareEntries[K, V comparable](t testing.TB, round int, what string, have, want map[K]V) {
	t.Helper()
	for key, v := range want {
		if got, ok := have[key]; !ok || got != v {
			t.Errorf("round %d: of the %s the kernel has %+v: %+v, %t; want %+v", round, what, key, got, ok, v)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			t.Errorf("round %d: of the %s the kernel still has %+v", round, what, key)
		}
	}
}

// end is somebody, by an address of family 0 or 1.
func (c *randomCell) end(family int) naiveEnd {
	switch c.IntN(3) {
	case 0:
		pod := pick(c.policyRandom, c.remote...)
		return naiveEnd{pod, pod.Status.PodIPs[family].IP}
	case 1:
		for {
			addr := pick(c.policyRandom, c.outside...)
			if strings.Contains(addr, ":") == (family == 1) {
				return naiveEnd{nil, addr}
			}
		}
	}
	return c.localEnd(family)
}

func (c *randomCell) localEnd(family int) naiveEnd {
	pod := pick(c.policyRandom, c.local...)
	return naiveEnd{pod, pod.Status.PodIPs[family].IP}
}

// compareOne makes up a connection with an end on this host. What another host
// enforces is not asked here.
func (l *lab) compareOne(d *Datapath, c *randomCell, round, i int) bool {
	family := c.IntN(2)
	from, to := c.localEnd(family), c.end(family)
	if c.chance(50) {
		from, to = to, from
	}
	if from.addr == to.addr {
		return true
	}
	proto := pick(c.policyRandom, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	port := pick(c.policyRandom, randomPorts...)
	here := func(e naiveEnd) bool { return slices.Contains(c.local, e.pod) }
	want := (!here(from) || c.naive.side(networkingv1.PolicyTypeEgress, from, to, to, proto, port)) &&
		(!here(to) || c.naive.side(networkingv1.PolicyTypeIngress, to, from, to, proto, port))
	in := frame{src: endpoint(from.addr, 20000+(round*calls100+i)%40000), dst: endpoint(to.addr, int(port)),
		proto: map[corev1.Protocol]Proto{"TCP": TCP, "UDP": UDP, "SCTP": protoSCTP}[proto], flags: flagSYN}
	var verdict uint32
	if here(from) {
		verdict, _ = l.runProgram(d, bpf.DatapathProgPodEgress, l.linkIndex(d, hostLinkName(from.pod.Name)), in.bytes())
	} else {
		verdict = l.runToPod(d, to.pod.Name, l.linkIndex(d, labUplink), in.bytes())
	}
	call := strings.TrimSpace(fmt.Sprintf("round %d: %s to %s %s", round, in.src, in.dst, proto))
	if got := verdict != verdictDrop; got != want {
		l.t.Errorf("%s: kernel says %t (verdict %d), the API %t", call, got, verdict, want)
	}
	if got := c.explained(from, to, proto, port); got != c.naive.allows(from, to, proto, port) {
		l.t.Errorf("%s: explained as %t, the API says %t", call, got, !got)
	}
	return want
}

func endpoint(addr string, port int) string { return net.JoinHostPort(addr, strconv.Itoa(port)) }

const calls100 = 100 // more than one round has

func (c *randomCell) explained(from, to naiveEnd, proto corev1.Protocol, port int32) bool {
	cell := policy.Cell{}
	for name, l := range c.naive.namespaces {
		cell.Namespaces = append(cell.Namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}})
	}
	for _, p := range c.naive.policies {
		cell.Policies = append(cell.Policies, *p)
	}
	party := func(e naiveEnd) policy.Party { return policy.Party{Pod: e.pod, Addr: netip.MustParseAddr(e.addr)} }
	return cell.Explain(party(from), party(to), policy.Port{Protocol: proto, Number: uint16(port)}).Allowed
}
