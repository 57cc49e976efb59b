package reconcile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// reconcileSets runs a session over the wire and returns what each side found,
// the bytes and the messages it took.
func reconcileSets(t testing.TB, a, b []Entry) (atA, atB *Session, bytes, messages int) {
	t.Helper()
	sides := [2]*Session{NewSession(NewSet(slices.Clone(a))), NewSession(NewSet(slices.Clone(b)))}
	m, more := sides[0].Start(), true
	for at := 1; more; at = 1 - at {
		data := AppendMessage(nil, m)
		bytes += len(data)
		if messages++; messages > 40 {
			t.Fatal("the session does not end")
		}
		got, err := DecodeMessage(data)
		if err != nil {
			t.Fatalf("decode message %d of %d ranges: %v", messages, len(m.Ranges), err)
		}
		if m, more, err = sides[at].Step(got); err != nil {
			t.Fatal(err)
		}
	}
	return sides[0], sides[1], bytes, messages
}

// fetch gives a what its session found at the other side.
func fetch(mine []Entry, s *Session) []Entry {
	held := map[string]uint64{}
	for _, e := range mine {
		held[e.Key] = e.Version
	}
	for _, d := range s.Found() {
		if d.HasTheirs {
			held[d.Key] = max(d.Ours, d.Theirs)
		}
	}
	var out []Entry
	for k, v := range held {
		out = append(out, Entry{k, v})
	}
	return out
}

func registry(n int) []Entry {
	var out []Entry
	for i := range n {
		out = append(out, Entry{fmt.Sprintf("/registry/pods/namespace-%02d/deployment-%07d-x7f9c", i%40, i), uint64(i)})
	}
	return out
}

// TestLargeSets is the figure: two peers of 165,000 records that differ in ten.
func TestLargeSets(t *testing.T) {
	a, b := largeSets()
	atA, atB, bytes, messages := reconcileSets(t, a, b)
	t.Logf("%d bytes in %d messages", bytes, messages)
	if bytes > 64<<10 {
		t.Errorf("%d bytes on the wire, want at most 64 KiB", bytes)
	}
	if x, y := NewSet(fetch(a, atA)), NewSet(fetch(b, atB)); x.Fingerprint() != y.Fingerprint() || x.Len() != 165_003 {
		t.Errorf("the sets differ afterwards: %d and %d entries", x.Len(), y.Len())
	}
}

func largeSets() (a, b []Entry) {
	a = registry(165_000)
	b = slices.Clone(a)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 10 {
		at := r.IntN(len(b))
		switch i % 3 {
		case 0:
			b[at].Version++
		case 1:
			b = slices.Delete(b, at, at+1)
		case 2:
			b = append(b, Entry{fmt.Sprintf("/registry/pods/namespace-%02d/new-%d", i, i), 1})
		}
	}
	return a, b
}

// BenchmarkLargeSets gives the same figure to `make bench`.
func BenchmarkLargeSets(b *testing.B) {
	x, y := largeSets()
	for b.Loop() {
		_, _, bytes, messages := reconcileSets(b, x, y)
		b.ReportMetric(float64(bytes)/1024, "wire-KB")
		b.ReportMetric(float64(messages), "messages")
	}
}

func TestSets(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 5))
		random := func(n int) []Entry {
			var out []Entry
			for range n {
				out = append(out, Entry{fmt.Sprint(r.IntN(600)), 1 + r.Uint64N(3)})
			}
			return NewSet(out).entries
		}
		a, b := random(r.IntN(400)), random(r.IntN(400))
		if seed%4 == 0 {
			b = nil
		}
		atA, atB, _, _ := reconcileSets(t, a, b)
		x, y := NewSet(fetch(a, atA)), NewSet(fetch(b, atB))
		if x.Fingerprint() != y.Fingerprint() || x.Len() != y.Len() {
			t.Fatalf("seed %d: the sets differ afterwards: %d and %d entries", seed, x.Len(), y.Len())
		}
		if atA.Cut() || atB.Cut() {
			t.Fatalf("seed %d: a small session was cut", seed)
		}
		checkDifferences(t, seed, a, b, atA, atB)
	}
}

// checkDifferences wants no difference that is none.
func checkDifferences(t *testing.T, seed uint64, a, b []Entry, atA, atB *Session) {
	t.Helper()
	inA, inB := map[string]uint64{}, map[string]uint64{}
	for _, e := range a {
		inA[e.Key] = e.Version
	}
	for _, e := range b {
		inB[e.Key] = e.Version
	}
	for _, d := range atA.Found() {
		if inA[d.Key] == inB[d.Key] || d.Ours != inA[d.Key] || d.Theirs != inB[d.Key] {
			t.Fatalf("seed %d: a found %+v; a has %d, b has %d", seed, d, inA[d.Key], inB[d.Key])
		}
	}
	for _, d := range atB.Found() {
		if inA[d.Key] == inB[d.Key] || d.Ours != inB[d.Key] || d.Theirs != inA[d.Key] {
			t.Fatalf("seed %d: b found %+v; a has %d, b has %d", seed, d, inA[d.Key], inB[d.Key])
		}
	}
}

// TestCut: sets that differ everywhere are reconciled session by session.
func TestCut(t *testing.T) {
	a := registry(60_000)
	b := slices.Clone(a)
	for i := range b {
		b[i].Version = 1 << 40
	}
	for round := 1; ; round++ {
		atA, atB, _, _ := reconcileSets(t, a, b)
		a, b = fetch(a, atA), fetch(b, atB)
		if NewSet(slices.Clone(a)).Fingerprint() == NewSet(slices.Clone(b)).Fingerprint() {
			t.Logf("equal after %d sessions", round)
			return
		}
		if !atA.Cut() && !atB.Cut() {
			t.Fatalf("session %d left differences and says it was not cut", round)
		}
		if round > 40 {
			t.Fatal("not equal after 40 sessions")
		}
	}
}

// TestRefused: messages that do not cover all keys, in order.
func TestRefused(t *testing.T) {
	for name, m := range map[string]Message{
		"stops early":     {[]Range{{End: "a"}}},
		"goes on":         {[]Range{{}, {}}},
		"falls":           {[]Range{{End: "b"}, {End: "a"}, {}}},
		"twice":           {[]Range{{End: "b"}, {End: "b"}, {}}},
		"entry after end": {[]Range{{Mode: List, Entries: []Entry{{"c", 1}}, End: "b"}, {}}},
		"entry twice":     {[]Range{{Mode: List, Entries: []Entry{{"c", 1}, {"c", 1}}}}},
		"entry too early": {[]Range{{End: "b"}, {Mode: List, Entries: []Entry{{"a", 1}}}}},
	} {
		if got, err := DecodeMessage(AppendMessage(nil, m)); err == nil {
			t.Errorf("%s: decoded as %v", name, got)
		}
	}
}

func FuzzMessage(f *testing.F) {
	set := NewSet(registry(400))
	start := NewSession(NewSet(registry(300))).Start()
	split, _, _ := NewSession(set).Step(start)
	f.Add(AppendMessage(nil, start))
	f.Add(AppendMessage(nil, split))
	f.Add(AppendMessage(nil, Message{[]Range{{Mode: List, Entries: []Entry{{"/a", 1}, {"/b", 2}}, End: "/c"}, {Mode: Answer, Entries: []Entry{{"/c", 1}}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMessage(data)
		if err != nil {
			return
		}
		if got := AppendMessage(nil, m); string(got) != string(data) {
			t.Fatalf("%x came back as %x", data, got)
		}
		answer, _, err := NewSession(set).Step(m)
		if err != nil {
			t.Fatalf("what was decoded is refused: %v", err)
		}
		if _, err := DecodeMessage(AppendMessage(nil, answer)); err != nil {
			t.Fatalf("the answer is refused: %v", err)
		}
	})
}

func BenchmarkNewSet(b *testing.B) {
	entries := registry(165_000)
	for b.Loop() {
		NewSet(entries)
	}
}
