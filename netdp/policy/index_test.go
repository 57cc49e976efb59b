package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"shoal/netdp/policy/tables"
)

func TestRangesOfPorts(t *testing.T) {
	for _, c := range []struct {
		span span
		want string
	}{
		{span{6, 0, 65535}, "0/0"},
		{span{6, 80, 80}, "80/16"},
		{span{6, 80, 81}, "80/15"},
		{span{6, 1, 3}, "1/16 2/15"},
		{span{6, 1000, 1999}, "1000/13 1008/12 1024/7 1536/8 1792/9 1920/10 1984/12"},
		{span{6, 65535, 65535}, "65535/16"},
	} {
		var got []string
		c.span.prefixes(func(port uint16, length uint8) { got = append(got, fmt.Sprintf("%d/%d", port, length)) })
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%v: %s, want %s", c.span, text, c.want)
		}
	}
}

// Each range is cut so that every port is in one part, and none outside is.
func TestRangesOfPortsAreWhole(t *testing.T) {
	for _, s := range []span{{6, 0, 65534}, {6, 1, 65535}, {6, 1, 65534}, {6, 4097, 40001}} {
		covered, parts := 0, 0
		s.prefixes(func(port uint16, length uint8) {
			parts++
			size := 1 << (16 - length)
			covered += size
			if int(port)%size != 0 || int(port) < int(s.low) || int(port)+size-1 > int(s.high) {
				t.Errorf("%v: part %d/%d", s, port, length)
			}
		})
		if covered != int(s.high)-int(s.low)+1 || parts > 30 {
			t.Errorf("%v: %d ports in %d parts", s, covered, parts)
		}
	}
}

func TestMergedPorts(t *testing.T) {
	s := portSet{spans: []span{{17, 5, 9}, {6, 80, 80}, {6, 81, 90}, {6, 85, 86}, {6, 100, 100}, {17, 5, 9}}}
	s.merge()
	if got := s.String(); got != "6:80-90 6:100-100 17:5-9 " {
		t.Error(got)
	}
}

func TestFlatten(t *testing.T) {
	prefix := netip.MustParsePrefix
	ports := func(n uint16) portSet { return portSet{spans: []span{{6, n, n}}} }
	got := flatten([]blockPorts{
		{&block{within: prefix("10.0.0.0/8"), except: []netip.Prefix{prefix("10.1.0.0/16")}}, ports(1)},
		{&block{within: prefix("10.1.2.0/24")}, ports(20)},
		{&block{within: prefix("10.0.0.0/9")}, ports(30)},
		{&block{within: prefix("::/0")}, ports(4)},
	})
	want := map[string]string{
		"0.0.0.0/0": "", "10.0.0.0/8": "6:1-1 ", "10.0.0.0/9": "6:1-1 6:30-30 ", "10.1.0.0/16": "6:30-30 ",
		"10.1.2.0/24": "6:20-20 6:30-30 ", "::/0": "6:4-4 ",
	}
	for at, p := range got {
		p.merge()
		if text, ok := want[at.String()]; !ok || text != p.String() {
			t.Errorf("%s: %q, want %q", at, p.String(), text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d ranges, want %d", len(got), len(want))
	}
}

// testPod is a pod with one label beside one of its own.
func testPod(name, app, addr string) Pod {
	return Pod{UID: name, Namespace: "default", Name: name,
		Labels: map[string]string{"app": app, "pod-name": name}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

func testPolicy(name, selects, from string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": selects}
	if from != "" {
		port := intstr.FromString("http")
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": from}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
		}}
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Rules grow with sets of labels that policies ask for, and not with pods.
func TestIdentities(t *testing.T) {
	x := NewIndex()
	must(t, x.SetPolicy(testPolicy("allow", "db", "web")))
	db := testPod("db", "db", "10.64.7.2")
	db.Ports = []NamedPort{{Name: "http", Protocol: 6, Port: 8080}, {Name: "unasked", Protocol: 6, Port: 9}}
	x.SetPod(db)
	x.Attach(tables.LocalPod{UID: "db", Namespace: "default", Name: "db", Addrs: db.Addrs})
	for i := range 100 {
		x.SetPod(testPod(fmt.Sprint("web-", i), "web", fmt.Sprintf("10.64.8.%d", i+1)))
		x.SetPod(testPod(fmt.Sprint("other-", i), "other", fmt.Sprintf("10.64.9.%d", i+1)))
	}
	c := x.Flush(true)
	ids := slices.Compact(slices.Sorted(maps.Values(c.Peers)))
	if len(c.Peers) != 201 || len(ids) != 3 {
		t.Errorf("%d peers of %d identities, want 201 of 3", len(c.Peers), len(ids))
	}
	if len(c.Rules.Peers) != 1 || len(c.Rules.Ports) != 1 || len(c.Rules.Blocks) != 0 {
		t.Errorf("rules: %+v", c.Rules)
	}
	for k := range c.Rules.Ports {
		if k.Protocol != 6 || k.Port != 8080 || k.Bits != 16 {
			t.Errorf("the named port is %+v", k)
		}
	}
	x.SetPod(testPod("web-new", "web", "10.64.8.200"))
	if c = x.Flush(false); c.Rules != nil || len(c.Peers) != 1 || len(c.Subjects) != 0 {
		t.Errorf("one more pod of known labels changes %+v", c)
	}
	x.SetPod(testPod("new", "new", "10.64.8.201"))
	if c = x.Flush(false); c.Rules == nil || len(c.Peers) != 1 {
		t.Errorf("the first pod of new labels changes %+v", c)
	}
	x.DeletePod("new")
	if c = x.Flush(false); len(c.Peers) != 1 || c.Peers[netip.MustParseAddr("10.64.8.201")] != 0 {
		t.Errorf("a pod that goes changes %+v", c)
	}
	x.DeletePolicy("default", "allow")
	c = x.Flush(false)
	if s, told := c.Subjects[db.Addrs[0]]; len(x.identities) != 1 || !told || s != (tables.Subject{}) {
		t.Errorf("without policies there are %d identities, subject %+v", len(x.identities), c.Subjects)
	}
}

// The same objects have the same numbers, in whatever order they come.
func TestNumbersAreStable(t *testing.T) {
	build := func(reverse bool) tables.Change {
		x := NewIndex()
		steps := []func(){
			func() { must(t, x.SetPolicy(testPolicy("a", "db", "web"))) },
			func() { must(t, x.SetPolicy(testPolicy("b", "db", "other"))) },
			func() { x.SetPod(testPod("db", "db", "10.64.7.2")) },
			func() { x.SetPod(testPod("web", "web", "10.64.7.3")) },
			func() {
				x.Attach(tables.LocalPod{UID: "db", Namespace: "default", Name: "db", Addrs: []netip.Addr{netip.MustParseAddr("10.64.7.2")}})
			},
		}
		if reverse {
			slices.Reverse(steps)
		}
		for _, s := range steps {
			s()
		}
		return x.Flush(true)
	}
	a, b := build(false), build(true)
	if !maps.Equal(a.Peers, b.Peers) || !maps.Equal(a.Subjects, b.Subjects) || !maps.Equal(a.Rules.Peers, b.Rules.Peers) {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// A pod that is here is held while the API does not know it, and keeps its
// policies when the API has lost it, until its network is gone.
func TestPodsWithoutObject(t *testing.T) {
	x := NewIndex()
	must(t, x.SetPolicy(testPolicy("deny", "db", "")))
	addr := netip.MustParseAddr("10.64.7.2")
	local := tables.LocalPod{UID: "db", Namespace: "default", Name: "db", Addrs: []netip.Addr{addr}}
	x.Attach(local)
	if c := x.Flush(true); c.Subjects[addr] != tables.Held {
		t.Errorf("without object: %+v", c.Subjects)
	}
	pod := testPod("db", "db", "10.64.7.2")
	pod.Addrs = nil // not in its status yet
	x.SetPod(pod)
	c := x.Flush(false)
	isolated := c.Subjects[addr]
	if isolated.Ingress < tables.FirstID || isolated.Egress != tables.NoSet || c.Peers[addr] == 0 {
		t.Errorf("with its object: %+v %+v", c.Subjects, c.Peers)
	}
	x.DeletePod("db")
	c = x.Flush(false)
	if id, told := c.Peers[addr]; len(c.Subjects) != 0 || told && id == 0 {
		t.Errorf("its object is gone: %+v", c)
	}
	replacement := testPod("db2", "other", "10.64.7.9")
	replacement.Name = "db"
	x.SetPod(replacement)
	if c := x.Flush(false); len(c.Subjects) != 0 {
		t.Errorf("another pod has its name: %+v", c)
	}
	x.Detach("db")
	c = x.Flush(false)
	if id, told := c.Peers[addr]; !told || id != 0 || len(x.pods) != 1 {
		t.Errorf("its network is gone: %+v", c)
	}
}

// The API shows a static pod under another uid.
func TestStaticPod(t *testing.T) {
	x := NewIndex()
	must(t, x.SetPolicy(testPolicy("deny", "db", "")))
	addr := netip.MustParseAddr("10.64.7.2")
	x.Attach(tables.LocalPod{UID: "hash", Namespace: "default", Name: "db-host", Addrs: []netip.Addr{addr}})
	x.Flush(true)
	mirror := testPod("mirror-uid", "db", "10.64.7.2")
	mirror.Name, mirror.Mirror = "db-host", "hash"
	x.SetPod(mirror)
	if c := x.Flush(false); c.Subjects[addr].Ingress < tables.FirstID {
		t.Errorf("%+v", c.Subjects)
	}
	x.Detach("hash")
	x.DeletePod("mirror-uid")
	if x.Flush(false); len(x.pods) != 0 || len(x.mirrors) != 0 || len(x.identities) != 0 {
		t.Errorf("left: %v %v %v", x.pods, x.mirrors, x.identities)
	}
}

// A pod of this host that the API says nothing of has the policies of what its host was
// told, until the API says otherwise.
func TestPodsThatTheirHostKnows(t *testing.T) {
	addr := netip.MustParseAddr("10.64.7.2")
	known := testPod("hash", "db", "10.64.7.2")
	local := tables.LocalPod{UID: "hash", Namespace: "default", Name: "db-host", Addrs: []netip.Addr{addr},
		Identity: (&known).identity()}
	named := func(p Pod, mirror string) Pod {
		p.Name, p.Mirror = "db-host", mirror
		if mirror != "" {
			p.UID = "mirror"
		}
		return p
	}
	for _, c := range []struct {
		name   string
		says   func(x *Index)
		denied bool
		peer   bool
		news   []string // labels that the host is to be told
	}{
		{name: "nothing", says: func(x *Index) {}, denied: true, peer: true},
		{name: "its mirror", says: func(x *Index) { x.SetPod(named(testPod("hash", "db", "10.64.7.2"), "hash")) }, denied: true, peer: true},
		{name: "its mirror has other labels", says: func(x *Index) { x.SetPod(named(testPod("hash", "free", "10.64.7.2"), "hash")) }, peer: true, news: []string{"free"}},
		{name: "its mirror came and went", says: func(x *Index) {
			x.SetPod(named(testPod("hash", "db", "10.64.7.2"), "hash"))
			x.Flush(false)
			x.DeletePod("mirror")
		}, denied: true, peer: true},
		{name: "it has other labels", says: func(x *Index) { x.SetPod(named(testPod("hash", "free", "10.64.7.2"), "")) }, peer: true, news: []string{"free"}},
		{name: "it has other labels since the host knew of it", says: func(x *Index) {
			x.SetPod(named(testPod("hash", "free", "10.64.7.2"), ""))
			x.Identify(local)
		}, peer: true, news: []string{"free"}},
		{name: "another pod is said to be it", says: func(x *Index) {
			thief := testPod("thief", "free", "10.64.7.9")
			thief.Mirror = "hash"
			x.SetPod(thief)
		}, denied: true, peer: true},
	} {
		x := NewIndex()
		must(t, x.SetPolicy(testPolicy("deny", "db", "")))
		x.Attach(local)
		x.Flush(true)
		if news := x.News(); len(news) != 0 {
			t.Errorf("%s: the host is told %v before", c.name, news)
		}
		c.says(x)
		got := x.Flush(true)
		if held := got.Subjects[addr] == tables.Held; held || got.Subjects[addr].Ingress >= tables.FirstID != c.denied || got.Peers[addr] == 0 {
			t.Errorf("%s: %+v, peer %d", c.name, got.Subjects[addr], got.Peers[addr])
		}
		var news []string
		for _, p := range x.News() {
			news = append(news, p.Identity.Labels["app"])
		}
		if !slices.Equal(news, c.news) {
			t.Errorf("%s: the host is told %v, want %v", c.name, news, c.news)
		}
		x.Detach("hash")
		for uid := range x.pods {
			x.DeletePod(uid)
		}
		if x.Flush(false); len(x.pods) != 0 || len(x.mirrors) != 0 || len(x.identities) != 0 {
			t.Errorf("%s: left: %v %v %v", c.name, x.pods, x.mirrors, x.identities)
		}
	}
	x := NewIndex() // known later than attached
	must(t, x.SetPolicy(testPolicy("deny", "db", "")))
	nameless := local
	nameless.Identity = nil
	x.Attach(nameless)
	if got := x.Flush(true); got.Subjects[addr] != tables.Held {
		t.Errorf("nobody knows it: %+v", got.Subjects)
	}
	x.Identify(local)
	if got := x.Flush(false); got.Subjects[addr].Ingress < tables.FirstID {
		t.Errorf("known later: %+v", got.Subjects)
	}
}

// A pod that says it shows another one has no part of that one's network.
func TestFalseMirror(t *testing.T) {
	for _, c := range []struct {
		name, victim string // uid
		claims       func(*Pod)
	}{
		{"of another pod", "db", func(p *Pod) { p.Name = "thief" }},
		{"of a static pod", "hash", func(p *Pod) { p.Name = "thief" }},
		{"of a static pod, by its name in another namespace", "hash", func(p *Pod) { p.Namespace = "other" }},
	} {
		for _, before := range []bool{true, false} {
			x := NewIndex()
			must(t, x.SetPolicy(testPolicy("deny", "db", "")))
			addr, own := netip.MustParseAddr("10.64.7.2"), netip.MustParseAddr("10.64.7.3")
			thief := testPod("thief-uid", "free", own.String())
			thief.Name, thief.Mirror = "db-host", c.victim
			c.claims(&thief)
			if before {
				x.SetPod(thief)
			}
			x.Attach(tables.LocalPod{UID: c.victim, Namespace: "default", Name: "db-host", Addrs: []netip.Addr{addr}})
			if got := x.Flush(true); got.Subjects[addr] != tables.Held {
				t.Errorf("%s: not held but %+v", c.name, got.Subjects[addr])
			}
			victim := testPod("db", "db", addr.String())
			victim.Name = "db-host"
			if c.victim == "hash" {
				victim.UID, victim.Mirror = "mirror-uid", "hash"
			}
			x.SetPod(victim)
			x.SetPod(thief)
			thief.Labels = map[string]string{"app": "freer"}
			x.SetPod(thief)
			got := x.Flush(true)
			if got.Subjects[addr].Ingress < tables.FirstID {
				t.Errorf("%s: the policy no longer holds: %+v", c.name, got.Subjects)
			}
			if got.Peers[addr] == 0 || got.Peers[own] == 0 || got.Peers[addr] == got.Peers[own] {
				t.Errorf("%s: it is taken for the other: %+v", c.name, got.Peers)
			}
			if c.victim == "hash" { // no longer annotated, and nothing is left of it
				thief.Mirror = ""
				x.SetPod(thief)
				if x.Flush(false); len(x.mirrors) != 1 {
					t.Errorf("%s: left: %v", c.name, x.mirrors)
				}
			}
		}
	}
}

// What cannot be read of a policy allows nothing, and the rest counts.
func TestUnreadablePolicy(t *testing.T) {
	p := testPolicy("half", "db", "web")
	p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
		From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "nonsense"}}},
	})
	x := NewIndex()
	err := x.SetPolicy(p)
	if err == nil || !strings.Contains(err.Error(), "default/half: ingress rule 2: peer 1: block:") {
		t.Errorf("error %v", err)
	}
	s := x.policies["default"]["half"]
	if s == nil || len(s.sides[ingress].rules) != 2 || len(s.sides[ingress].rules[1].peers) != 0 || s.sides[ingress].rules[1].anyPeer {
		t.Errorf("read as %+v", s)
	}
}

func TestIDsThatMeet(t *testing.T) {
	n := ids{}
	id := n.of("one")
	n[id] = "another text with the same hash"
	if other := n.of("one"); other == id {
		t.Error("two texts have one number")
	}
}

// A port's name for a range of addresses depends on which pods are in it.
func TestNamedPortsOfBlocks(t *testing.T) {
	x := NewIndex()
	p := testPolicy("out", "web", "")
	name := intstr.FromString("http")
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{
		To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.64.8.0/24"}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &name}},
	}}
	must(t, x.SetPolicy(p))
	web, db := testPod("web", "web", "10.64.7.2"), testPod("db", "db", "10.64.8.2")
	db.Ports = []NamedPort{{Name: "http", Protocol: 6, Port: 8080}}
	x.SetPod(web)
	x.SetPod(db)
	x.Attach(tables.LocalPod{UID: "web", Namespace: "default", Name: "web", Addrs: web.Addrs})
	hasPort := func(c tables.Change, prefix string) bool {
		t.Helper()
		if c.Rules == nil {
			t.Fatal("the rules are not made anew")
		}
		for k, profile := range c.Rules.Blocks {
			if k.Range == netip.MustParsePrefix(prefix) && profile != tables.NoProfile {
				return true
			}
		}
		return false
	}
	if c := x.Flush(true); !hasPort(c, "10.64.8.2/32") {
		t.Errorf("%+v", c.Rules)
	}
	db.Addrs = []netip.Addr{netip.MustParseAddr("10.64.8.3")}
	x.SetPod(db)
	if c := x.Flush(false); !hasPort(c, "10.64.8.3/32") || hasPort(c, "10.64.8.2/32") {
		t.Errorf("after it moved: %+v", c.Rules)
	}
	db.Addrs = []netip.Addr{netip.MustParseAddr("10.64.9.3")}
	x.SetPod(db)
	if c := x.Flush(false); hasPort(c, "10.64.9.3/32") || hasPort(c, "10.64.8.3/32") {
		t.Errorf("outside the range: %+v", c.Rules)
	}
}
