package membership

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestBeliefs: what is told after each rumour and each answer to a probe.
func TestBeliefs(t *testing.T) {
	at := func(port uint16) Member {
		return Member{Name: "a", Address: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}
	}
	const answer = Kind(100)
	type step struct {
		kind Kind
		want string
	}
	for name, steps := range map[string][]step{
		"joins and fails":               {{Joined, "joined"}, {Failed, "failed"}, {Failed, ""}},
		"a rumour does not revive":      {{Joined, "joined"}, {Failed, "failed"}, {Joined, ""}, {Updated, ""}},
		"an answer does":                {{Joined, "joined"}, {Failed, "failed"}, {Joined, ""}, {answer, "joined"}, {Failed, "failed"}},
		"an answer nobody asked for":    {{Joined, "joined"}, {Failed, "failed"}, {answer, ""}},
		"fails again before it answers": {{Joined, "joined"}, {Failed, "failed"}, {Joined, ""}, {Failed, ""}, {answer, ""}},
		"first heard of as failed":      {{Failed, ""}, {Joined, ""}, {answer, "joined"}},
		"forgotten, then new":           {{Joined, "joined"}, {Failed, "failed"}, {Forgotten, "forgotten"}, {Joined, "joined"}},
		"leaves and comes back":         {{Joined, "joined"}, {Left, "left"}, {Joined, ""}, {answer, "joined"}},
		"forgotten while it is doubted": {{Joined, "joined"}, {Failed, "failed"}, {Joined, ""}, {Forgotten, "forgotten"}, {answer, ""}},
		"updated":                       {{Joined, "joined"}, {Updated, "updated"}},
	} {
		b := newBeliefs()
		for i, s := range steps {
			var got string
			var events []Event
			if s.kind == answer {
				events = b.probed(at(1))
			} else {
				events = b.rumour(s.kind, at(1), time.Time{})
			}
			for _, e := range events {
				got += e.Kind.String()
			}
			if got != s.want {
				t.Errorf("%s: step %d told %q, want %q", name, i+1, got, s.want)
			}
		}
	}
}

// TestProbes: doubted members are probed ever more rarely, at the address they
// have now, and never more than the limit.
func TestProbes(t *testing.T) {
	b, now := newBeliefs(), time.Unix(0, 0)
	for i := range maxDoubted + 100 {
		m := Member{Name: fmt.Sprint(i)}
		b.rumour(Failed, m, now)
		b.rumour(Joined, m, now)
	}
	if n := len(b.due(now)); n != maxDoubted {
		t.Errorf("%d probes, limit %d", n, maxDoubted)
	}
	if n := len(b.due(now)); n != 0 {
		t.Errorf("%d probes at once again", n)
	}
	if n := len(b.due(now.Add(probeEvery))); n != maxDoubted {
		t.Errorf("%d probes after a second", n)
	}
	if n := len(b.due(now.Add(2 * probeEvery))); n != 0 {
		t.Errorf("%d probes a second later", n)
	}
	moved := Member{Name: "0", Address: netip.MustParseAddrPort("10.0.0.1:1")}
	b.rumour(Joined, moved, now)
	if events := b.probed(Member{Name: "0"}); len(events) != 0 {
		t.Error("an answer from the old address was believed")
	}
	if events := b.probed(moved); len(events) != 1 {
		t.Error("an answer from the new address was not believed")
	}
}
