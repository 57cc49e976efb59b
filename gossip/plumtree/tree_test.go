package plumtree

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestNeighbours(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 200} {
		var members []Peer
		for i := range n {
			members = append(members, Peer(fmt.Sprintf("node-%d", i)))
		}
		all := ringLinks(members, DefaultRings)
		for _, p := range members {
			got := Neighbours(p, members, DefaultRings)
			want := slices.Clone(all[p])
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("%d members: %s has %v, want %v", n, p, got, want)
			}
			for _, q := range got {
				if !slices.Contains(Neighbours(q, members, DefaultRings), p) {
					t.Fatalf("%s keeps a link with %s, which keeps none with it", p, q)
				}
			}
		}
		if seen := reachable(members, all); seen != n {
			t.Errorf("%d of %d members are connected", seen, n)
		}
	}
}

func reachable(members []Peer, links map[Peer][]Peer) int {
	seen := map[Peer]bool{members[0]: true}
	todo := []Peer{members[0]}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		for _, q := range links[p] {
			if !seen[q] {
				seen[q] = true
				todo = append(todo, q)
			}
		}
	}
	return len(seen)
}

// TestBounds floods one tree and looks at what it keeps.
func TestBounds(t *testing.T) {
	tree := New("a", DefaultTiming)
	tree.Connect("b")
	tree.Connect("c")
	now := time.Duration(0)
	payload := bytes.Repeat([]byte{1}, 8<<10)
	for i := range uint64(maxSeen + 5000) {
		now += time.Millisecond
		tree.Step("b", Message{Type: Push, Items: []Item{{ID: ID{1, i}}}, Payload: payload}, now)
		tree.Step("b", Message{Type: Announce, Items: []Item{{ID: ID{2, i}}}}, now)
		if i%100 == 0 {
			tree.Tick(now)
		}
		tree.Take()
	}
	if n := len(tree.cache.seen); n > maxSeen {
		t.Errorf("%d ids remembered, limit %d", n, maxSeen)
	}
	if n, size := tree.cache.held, tree.cache.bytes; n > maxCached || size > maxCachedBytes {
		t.Errorf("%d payloads of %d bytes held, limits %d and %d", n, size, maxCached, maxCachedBytes)
	}
	if n := len(tree.missing); n > maxMissing || len(tree.wanted) > 3*maxMissing {
		t.Errorf("%d messages missed, %d in the list, limit %d", n, len(tree.wanted), maxMissing)
	}
	for _, l := range tree.links {
		if len(l.awaiting) > maxAwaited || len(l.order) > 3*maxAwaited || len(l.haves) > maxHaves {
			t.Errorf("%s: %d awaited, %d in the list, %d to tell", l.peer, len(l.awaiting), len(l.order), len(l.haves))
		}
	}
	tree.Broadcast(ID{3, 1}, payload, now+maxHeld)
	if n, size := tree.cache.held, tree.cache.bytes; n != 1 || size != len(payload) {
		t.Errorf("%d payloads of %d bytes held after %s without any", n, size, maxHeld)
	}
}

// TestQuiet: after everything was answered or given up nothing is left to do.
func TestQuiet(t *testing.T) {
	tree := New("a", DefaultTiming)
	tree.Connect("b")
	tree.Broadcast(ID{1, 1}, []byte("x"), 0)
	tree.Step("b", Message{Type: Announce, Items: []Item{{ID: ID{2, 1}}}}, 0)
	for range 200 {
		at, ok := tree.Deadline()
		if !ok {
			return
		}
		tree.Tick(at)
		tree.Take()
	}
	t.Error("the tree still waits after 200 ticks")
}

func TestObserve(t *testing.T) {
	tree := New("a", DefaultTiming)
	tree.Connect("b")
	tree.Step("b", Message{Type: Announce, Items: []Item{{ID: ID{1, 1}}}}, 0)
	tree.Observe(ID{1, 1})
	tree.Tick(time.Hour)
	for _, e := range tree.Take().Send {
		if e.Message.Type == Graft {
			t.Error("asked for what came another way")
		}
	}
	tree.Step("b", Message{Type: Push, Items: []Item{{ID: ID{1, 1}}}}, time.Hour)
	if d := tree.Take().Deliver; len(d) != 0 {
		t.Errorf("delivered what came another way: %v", d)
	}
}

func TestWire(t *testing.T) {
	for _, m := range []Message{
		{Type: Push, Items: []Item{{ID{1, 2}, 3}}, Payload: []byte("payload")},
		{Type: Announce, Items: []Item{{ID{1 << 63, 1 << 60}, 0}, {ID{0, 0}, maxHops}}},
		{Type: Have, Items: []Item{{ID{1, 2}, 3}}},
		{Type: Graft},
		{Type: Prune},
	} {
		got, err := Decode(Append(nil, m))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(m) {
			t.Errorf("%v came back as %v, %v", m, got, err)
		}
	}
	for name, data := range map[string][]byte{
		"empty":              {},
		"unknown type":       {9, 0},
		"push of nothing":    {1, 0},
		"item cut off":       {2, 1, 0, 0},
		"too many items":     {2, 0xff, 0xff, 0x7f},
		"trailing bytes":     {5, 0, 1},
		"prune with an item": Append(nil, Message{Type: Prune, Items: []Item{{}}}),
	} {
		if m, err := Decode(data); err == nil {
			t.Errorf("%s: decoded as %v", name, m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, Message{Type: Push, Items: []Item{{ID{1, 2}, 3}}, Payload: []byte("payload")}))
	f.Add(Append(nil, Message{Type: Announce, Items: []Item{{ID{1, 2}, 3}, {ID{4, 5}, 6}}}))
	f.Add([]byte{5, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(Append(nil, m))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
			t.Fatalf("%v came back as %v, %v", m, again, err)
		}
		tree := New("a", DefaultTiming)
		tree.Connect("b")
		tree.Step("b", m, 0)
		tree.Tick(time.Hour)
	})
}
