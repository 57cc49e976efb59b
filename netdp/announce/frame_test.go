package announce

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

var (
	ours   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	theirs = net.HardwareAddr{2, 0, 0, 0, 0, 9}
)

func frame(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A request as Linux sends it: who has 198.18.0.200, tell 198.18.0.100; and a
// solicitation for 2001:db8::c8 from 2001:db8::64 with its link-layer address.
// The checksum of the latter was computed by hand from RFC 4443, 2.3.
const (
	whoHas = `ffffffffffff 020000000009 0806
		0001 0800 06 04 0001 020000000009 c6120064 000000000000 c61200c8`
	solicitation = `3333ff0000c8 020000000009 86dd
		60000000 0020 3a ff 20010db8000000000000000000000064 ff0200000000000000000001ff0000c8
		87 00 1a30 00000000 20010db80000000000000000000000c8 01 01 020000000009`
)

func TestARP(t *testing.T) {
	q, ok := parseQuestion(frame(t, whoHas))
	if !ok || q.target != netip.MustParseAddr("198.18.0.200") || q.asker != netip.MustParseAddr("198.18.0.100") {
		t.Fatalf("%+v, %t", q, ok)
	}
	want := frame(t, `020000000009 020000000001 0806
		0001 0800 06 04 0002 020000000001 c61200c8 020000000009 c6120064`)
	if got := answer(q, ours); string(got) != string(want) {
		t.Errorf("answer\n%x, want\n%x", got, want)
	}
	told := unasked(q.target, ours)
	if _, ok := parseQuestion(told[0]); ok || len(told) != 2 || told[0][21] != arpRequest || told[1][21] != arpReply {
		t.Errorf("unasked are %x; want a request that is no question, and a reply", told)
	}
}

func TestNeighbourDiscovery(t *testing.T) {
	b := frame(t, solicitation)
	src, dst := netip.AddrFrom16([16]byte(b[22:38])), netip.AddrFrom16([16]byte(b[38:54]))
	q, ok := parseQuestion(b)
	if !ok {
		t.Fatalf("no question; the checksum leaves %#x", checksum(src, dst, b[etherLen+ip6Len:]))
	}
	target := netip.MustParseAddr("2001:db8::c8")
	if q.target != target || q.asker != netip.MustParseAddr("2001:db8::64") || q.askerMAC.String() != theirs.String() {
		t.Fatalf("%+v", q)
	}
	if g := solicitedNode(target); g != dst {
		t.Errorf("the group is %s, want %s", g, dst)
	}
	for name, got := range map[string][]byte{"answer": answer(q, ours), "unasked": unasked(target, ours)[0], "to one without an address": answer(question{target: target, asker: netip.IPv6Unspecified(), askerMAC: theirs}, ours)} {
		m := got[etherLen+ip6Len:]
		from, to := netip.AddrFrom16([16]byte(got[22:38])), netip.AddrFrom16([16]byte(got[38:54]))
		if from != target || checksum(from, to, m) != 0 || m[0] != typeAdvertise || netip.AddrFrom16([16]byte(m[8:24])) != target || string(m[26:]) != string(ours) || got[21] != 255 {
			t.Errorf("%s: %x", name, got)
		}
		if solicited := m[4]&flagSolicited != 0; solicited != (name == "answer") || to == q.asker != (name == "answer") {
			t.Errorf("%s goes to %s, as one that was asked for: %t", name, to, solicited)
		}
	}
}

func TestClaims(t *testing.T) {
	four, six := netip.MustParseAddr("198.18.0.200"), netip.MustParseAddr("2001:db8::c8")
	asking := netip.MustParseAddr("2001:db8::64")
	solicited, _ := parseQuestion(frame(t, solicitation))
	for name, c := range map[string]struct {
		frame []byte
		want  claim
	}{
		"who asks has its own": {frame(t, whoHas), claim{netip.MustParseAddr("198.18.0.100"), theirs, false}},
		"a solicitation":       {frame(t, solicitation), claim{asking, theirs, false}},
		"told by ARP":          {unasked(four, ours)[0], claim{four, ours, false}},
		"a reply of ARP":       {unasked(four, ours)[1], claim{four, ours, false}},
		"told by NDP":          {unasked(six, ours)[0], claim{six, ours, false}},
		"an advertisement":     {answer(solicited, ours), claim{six, ours, false}},
		"a probe of ARP":       {probe(four, ours), claim{four, ours, true}},
		"a probe of NDP":       {probe(six, ours), claim{six, ours, true}},
	} {
		got, ok := parseClaim(c.frame)
		if !ok || got.addr != c.want.addr || got.mac.String() != c.want.mac.String() || got.probe != c.want.probe {
			t.Errorf("%s: %+v, %t, want %+v", name, got, ok, c.want)
		}
		for n := range c.frame {
			if got, ok := parseClaim(c.frame[:n]); ok && n < etherLen+arpLen {
				t.Errorf("%s: the first %d bytes claim %s", name, n, got.addr)
			}
		}
	}
	// A probe is a question, so that who has the address says so.
	for _, a := range []netip.Addr{four, six} {
		if q, ok := parseQuestion(probe(a, ours)); !ok || q.target != a || !q.asker.IsUnspecified() {
			t.Errorf("the probe of %s asks %+v, %t", a, q, ok)
		}
	}
}

func TestWhatIsNoQuestion(t *testing.T) {
	good := [][]byte{frame(t, whoHas), frame(t, solicitation)}
	for i, kind := range good {
		for n := range kind {
			if _, ok := parseQuestion(kind[:n]); ok {
				t.Errorf("the first %d bytes of frame %d are a question", n, i)
			}
		}
	}
	spoil := func(i, at int, value byte) {
		b := append([]byte{}, good[i]...)
		b[at] = value
		if _, ok := parseQuestion(b); ok {
			t.Errorf("frame %d is a question with byte %d as %#x", i, at, value)
		}
	}
	spoil(0, 6, 0x03)  // from a group
	spoil(0, 12, 0x81) // another protocol
	spoil(0, 15, 6)    // other hardware
	spoil(0, 18, 8)    // other lengths
	spoil(0, 21, 2)    // a reply
	spoil(0, 31, 200)  // tells of itself
	spoil(1, 20, 17)   // UDP
	spoil(1, 21, 64)   // through a router
	spoil(1, 54, 136)  // an advertisement
	spoil(1, 55, 1)    // a code there is none of
	spoil(1, 77, 0xc9) // another target, with the wrong checksum
}

func FuzzParseQuestion(f *testing.F) {
	f.Add(frame(f, whoHas))
	f.Add(frame(f, solicitation))
	f.Add(answer(question{target: netip.MustParseAddr("2001:db8::c8"), asker: netip.MustParseAddr("2001:db8::64"), askerMAC: theirs}, ours))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := parseClaim(b); ok && (!c.addr.IsValid() || c.addr.IsUnspecified() || c.addr.IsMulticast() && c.addr.Is6() || len(c.mac) != 6) {
			t.Fatalf("%+v", c)
		}
		q, ok := parseQuestion(b)
		if !ok {
			return
		}
		if !q.target.IsValid() || len(q.askerMAC) != 6 || q.askerMAC[0]&1 != 0 {
			t.Fatalf("%+v", q)
		}
		// What we send is nothing that we would answer.
		if _, again := parseQuestion(answer(q, ours)); again {
			t.Fatalf("an answer to %x is a question", b)
		}
	})
}
