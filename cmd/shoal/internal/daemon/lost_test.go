//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/api"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
	"shoal/store"
	"shoal/store/vector"
	"shoal/test/eventually"
)

// smallCell is peers that have entered a cell and run gossip, nothing above it.
type smallCell struct {
	t       *testing.T
	first   *peer
	address string
	token   string
}

func newSmallCell(t *testing.T) *smallCell {
	t.Helper()
	c := &smallCell{t: t}
	c.first = newPeer(t, Config{Name: "host1", DataDir: t.TempDir()})
	entered(t, c.first)
	c.cleanup(c.first)
	made := token.New(c.first.identity.Cell)
	c.token = made.String()
	c.address = serveCell(t, c.first, &tokenShelf{tokens: map[string]token.Stored{made.ID: {ID: made.ID, Secret: made.Secret, Expires: time.Now().Add(time.Hour)}}})
	return c
}

func (c *smallCell) cleanup(p *peer) {
	c.t.Cleanup(func() {
		if p.db != nil {
			stopped(c.t, p)
		}
	})
}

func (c *smallCell) config(name string) Config {
	return Config{Name: name, DataDir: c.t.TempDir(), GossipPort: freePorts(c.t), Join: c.address, Token: c.token}
}

func (c *smallCell) start(config Config) *peer {
	c.t.Helper()
	p := newPeer(c.t, config)
	entered(c.t, p)
	c.cleanup(p)
	return p
}

func (c *smallCell) refuses(config Config) error {
	c.t.Helper()
	p := newPeer(c.t, config)
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	err := p.enter(ctx)
	if closeErr := p.close(); closeErr != nil {
		c.t.Error(closeErr)
	}
	if err == nil {
		c.t.Fatalf("%s started", config.Name)
	}
	return err
}

func stopped(t *testing.T, p *peer) {
	t.Helper()
	if err := p.close(); err != nil {
		t.Error(err)
	}
	p.db, p.node, p.stopGossip = nil, nil, nil
}

func put(t *testing.T, p *peer, key string) {
	t.Helper()
	if _, err := p.db.Update(t.Context(), store.Update{Key: key, Expect: store.Any, Value: []byte(p.config.Name), UID: p.config.Name + key}); err != nil {
		t.Fatal(err)
	}
}

func has(p *peer, keys ...string) bool {
	for _, key := range keys {
		if _, _, err := p.db.Get(key, store.Latest); err != nil {
			return false
		}
	}
	return true
}

func equal(peers ...*peer) bool {
	for _, p := range peers[1:] {
		if p.db.VectorDigest() != peers[0].db.VectorDigest() || p.db.Fingerprints() != peers[0].db.Fingerprints() {
			return false
		}
	}
	return true
}

// actors are those that the records call members under a name.
func actors(p *peer, name string) []vector.Actor {
	var found []vector.Actor
	for _, m := range membersIn(p.db) {
		if m.Name == name {
			found = append(found, m.actor)
		}
	}
	return found
}

func tended(t *testing.T, p *peer) {
	t.Helper()
	if err := p.tendMember(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// lacks opens a store that no peer runs on and sees that keys are not there.
func lacks(t *testing.T, dir string, keys ...string) {
	t.Helper()
	db, err := Config{DataDir: filepath.Dir(dir)}.openStore(t.Context(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, key := range keys {
		if _, _, err := db.Get(key, store.Latest); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the copy is not older: it has %s (%v)", key, err)
		}
	}
}

// TestAnOlderStore: the disk lost what it said was synced, and its witness with
// it. Nothing that a peer answered is lost, nor what is written since.
func TestAnOlderStore(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	other := c.start(c.config("host3"))
	put(t, second, "/registry/a")
	eventually.True(t, "the first write is everywhere", func() bool { return equal(c.first, second, other) && has(other, "/registry/a") })
	stopped(t, second)
	dir, old := filepath.Join(config.DataDir, storeDir), filepath.Join(t.TempDir(), "old")
	copyDir(t, dir, old)

	second = c.start(config)
	var later []string
	for i := range 20 {
		later = append(later, fmt.Sprintf("/registry/later/%d", i))
		put(t, second, later[i])
	}
	eventually.True(t, "later writes are everywhere", func() bool { return equal(c.first, second, other) && has(other, later...) })
	was := second.db.Actor()
	stopped(t, second)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	copyDir(t, old, dir)
	lacks(t, dir, later...)

	second = c.start(config)
	put(t, second, "/registry/after") // perhaps before it knows
	put(t, other, "/registry/meanwhile")
	eventually.True(t, "what is written now is told from what was lost", func() bool {
		tended(t, second)
		return slices.Equal(actors(c.first, "host2"), []vector.Actor{second.db.Actor()})
	})
	all := append(slices.Clone(later), "/registry/a", "/registry/after", "/registry/meanwhile")
	eventually.True(t, "all writes are everywhere", func() bool {
		return equal(c.first, second, other) && has(c.first, all...) && has(second, all...) && has(other, all...)
	})
	for _, p := range []*peer{c.first, second, other} {
		if p.db.Vector()[was] == nil {
			t.Errorf("%s does not know the old actor's writes", p.config.Name)
		}
	}
}

// TestAnEmptiedStore: name and number stay, all else comes back from peers.
func TestAnEmptiedStore(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	put(t, second, "/registry/a")
	put(t, c.first, "/registry/b")
	eventually.True(t, "both have both", func() bool { return equal(c.first, second) && has(second, "/registry/b") })
	tended(t, c.first) // notes where host2 is
	was, tag := second.db.Actor(), second.identity.Tag
	stopped(t, second)
	if err := os.RemoveAll(filepath.Join(config.DataDir, storeDir)); err != nil {
		t.Fatal(err)
	}
	config.Join, config.Token = "", ""
	second = c.start(config)
	if second.db.Actor() == was || second.identity.Tag != tag {
		t.Errorf("actor %x was %x, number %d was %d", second.db.Actor(), was, second.identity.Tag, tag)
	}
	eventually.True(t, "it is back", func() bool {
		return equal(c.first, second) && has(second, "/registry/a", "/registry/b") && slices.Equal(actors(c.first, "host2"), []vector.Actor{second.db.Actor()})
	})

	// The founder has no other right to the cell than the others.
	founder := c.first.config
	stopped(t, c.first)
	if err := os.RemoveAll(filepath.Join(founder.DataDir, storeDir)); err != nil {
		t.Fatal(err)
	}
	first := c.start(founder)
	eventually.True(t, "the founder is back", func() bool { return equal(first, second) && has(first, "/registry/a", "/registry/b") })
}

func TestTheOnlyStoreIsMissing(t *testing.T) {
	c := &smallCell{t: t}
	alone := newPeer(t, Config{Name: "host1", DataDir: t.TempDir()})
	entered(t, alone)
	stopped(t, alone)
	if err := os.RemoveAll(filepath.Join(alone.config.DataDir, storeDir)); err != nil {
		t.Fatal(err)
	}
	if err := c.refuses(alone.config); !strings.Contains(err.Error(), "shoal restore") {
		t.Error(err)
	}
	if hasState(alone.config.DataDir) {
		t.Error("it has made a new store")
	}
}

func TestTheIdentityIsMissing(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	stopped(t, second)
	if err := os.Remove(filepath.Join(config.DataDir, identityFile)); err != nil {
		t.Fatal(err)
	}
	config.Join, config.Token = "", ""
	if err := c.refuses(config); !strings.Contains(err.Error(), identityFile) {
		t.Error(err)
	}
}

// TestACopyOnAnotherHost: of two hosts with one identity the one that comes
// later does not start; a data directory that was moved does.
func TestACopyOnAnotherHost(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	put(t, second, "/registry/a")
	stopped(t, second)
	twin := config
	twin.DataDir, twin.GossipPort = filepath.Join(t.TempDir(), "copy"), freePorts(t)
	copyDir(t, config.DataDir, twin.DataDir)

	second = c.start(config)
	eventually.True(t, "the original is well", func() bool { return equal(c.first, second) })
	var refusal *twinError
	if err := c.refuses(twin); !errors.As(err, &refusal) {
		t.Error(err)
	}
	tended(t, second)
	put(t, second, "/registry/b")
	eventually.True(t, "the original goes on", func() bool { return equal(c.first, second) && has(c.first, "/registry/b") })

	stopped(t, second)
	moved := c.start(twin)
	eventually.True(t, "the one that moved has caught up and is known there", func() bool {
		m := membersIn(c.first.db)
		i := slices.IndexFunc(m, func(m member) bool { return m.Name == "host2" })
		return equal(c.first, moved) && has(moved, "/registry/b") && i >= 0 && int(m[i].Gossip.Port()) == twin.GossipPort
	})
	// The original meets the record on disk of its peer only when linked.
	late := newPeer(t, config)
	err := late.enter(t.Context())
	for range 600 {
		if err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
		err = late.tendMember(t.Context())
	}
	if !errors.As(err, &refusal) {
		t.Errorf("the original came back beside it: %v", err)
	}
	if err := late.close(); err != nil {
		t.Error(err)
	}
}

func leftAside(t *testing.T, dataDir string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dataDir, storeDir+".left-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestAHostThatLeft(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	put(t, second, "/registry/a")
	eventually.True(t, "it is linked", func() bool { return equal(c.first, second) })
	was := second.db.Actor()
	if err := (&cellMembers{cellNode: second.node, records: api.CellRecords(second.db)}).Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	tended(t, second) // it is told nothing of what it does itself
	eventually.True(t, "the others know", func() bool { return len(actors(c.first, "host2")) == 0 })
	stopped(t, second)
	rejoin := config
	config.Join, config.Token = "", ""
	if err := c.refuses(config); !strings.Contains(err.Error(), "--join") || !strings.Contains(err.Error(), "left") {
		t.Error(err)
	}
	bad := rejoin
	bad.Token = token.New(c.first.identity.Cell).String()
	var refusal *join.Refusal
	if err := c.refuses(bad); !errors.As(err, &refusal) {
		t.Error(err)
	}
	if err := c.refuses(config); !strings.Contains(err.Error(), "--join") { // it must not found a cell
		t.Error(err)
	}
	second = c.start(rejoin)
	if second.db.Actor() == was || leftAside(t, config.DataDir) != 1 {
		t.Errorf("actor %x was %x; %d stores set aside", second.db.Actor(), was, leftAside(t, config.DataDir))
	}
	eventually.True(t, "it is a member again", func() bool {
		return equal(c.first, second) && has(second, "/registry/a") && slices.Equal(actors(c.first, "host2"), []vector.Actor{second.db.Actor()})
	})
}

func TestAHostForgottenMeanwhile(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	put(t, second, "/registry/a")
	eventually.True(t, "it is linked", func() bool { return equal(c.first, second) })
	was := second.db.Actor()
	stopped(t, second)
	if err := (&cellMembers{cellNode: c.first.node, records: api.CellRecords(c.first.db)}).Forget(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	second = c.start(config)
	var told error
	eventually.True(t, "it is told", func() bool { told = second.tendMember(t.Context()); return told != nil })
	if !strings.Contains(told.Error(), "forgotten") || !strings.Contains(told.Error(), "--join") {
		t.Error(told)
	}
	stopped(t, second)
	alone := config
	alone.Join = ""
	if err := c.refuses(alone); !strings.Contains(err.Error(), "forgotten") {
		t.Error(err)
	}
	second = c.start(config)
	if second.db.Actor() == was || leftAside(t, config.DataDir) != 1 {
		t.Errorf("actor %x was %x; %d stores set aside", second.db.Actor(), was, leftAside(t, config.DataDir))
	}
	eventually.True(t, "it is a member again", func() bool { return equal(c.first, second) && len(actors(c.first, "host2")) == 1 })
}

func TestAMemberGoneForADay(t *testing.T) {
	c := newSmallCell(t)
	second, third := c.start(c.config("host2")), c.start(c.config("host3"))
	eventually.True(t, "all know all", func() bool {
		return equal(c.first, second, third) && len(c.first.node.Names()) == 3 && len(third.node.Names()) == 3
	})
	gone := second.db.Actor()
	stopped(t, second)
	eventually.True(t, "it has failed", func() bool { return len(c.first.node.Names()) == 2 && len(third.node.Names()) == 2 })
	began := time.Now()
	seen, seenByThird := absence{}, absence{}
	for _, after := range []time.Duration{0, forgetAfter - time.Hour} {
		if err := c.first.forgetLongGone(t.Context(), seen, began.Add(after)); err != nil {
			t.Fatal(err)
		}
		if len(actors(c.first, "host2")) != 1 {
			t.Fatalf("forgotten after %v", after)
		}
	}
	for _, after := range []time.Duration{0, 2 * forgetAfter} {
		if err := third.forgetLongGone(t.Context(), seenByThird, began.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	if len(actors(third, "host2")) != 1 {
		t.Fatal("forgotten by one that was not chosen")
	}
	if err := c.first.forgetLongGone(t.Context(), seen, began.Add(forgetAfter+time.Minute)); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "all know that it is forgotten", func() bool {
		return len(actors(third, "host2")) == 0 && has(third, forgottenKey(gone)) && equal(c.first, third)
	})
}

func TestWhoIsOverdue(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	start := time.Unix(0, 0)
	for name, test := range map[string]struct {
		self  string
		alive []string
		want  []string
	}{
		"most are there, and it is the first": {"a", []string{"a", "b", "c"}, []string{"d", "e"}},
		"most are there, and it is another":   {"b", []string{"a", "b", "c"}, nil},
		"the first is gone":                   {"b", []string{"b", "c", "d"}, []string{"a", "e"}},
		"the smaller side":                    {"a", []string{"a", "b"}, nil},
		"somebody who is no member":           {"a", []string{"a", "b", "x"}, nil},
		"nobody is gone":                      {"a", all, nil},
	} {
		seen := absence{}
		if got := seen.overdue(start, test.self, all, test.alive); len(got) > 0 {
			t.Errorf("%s: at once %v", name, got)
		}
		if got := seen.overdue(start.Add(forgetAfter), test.self, all, test.alive); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	seen := absence{}
	seen.overdue(start, "a", all, all[:4])
	seen.overdue(start.Add(forgetAfter/2), "a", all, all)
	seen.overdue(start.Add(forgetAfter-time.Hour), "a", all, all[:4])
	if got := seen.overdue(start.Add(forgetAfter), "a", all, all[:4]); len(got) > 0 {
		t.Errorf("it came back meanwhile: %v", got)
	}
}

func alarm(p *peer, code string) string {
	for _, a := range (&cellMembers{cellNode: p.node, records: api.CellRecords(p.db)}).Alarms() {
		if a.Code == code {
			return a.Title
		}
	}
	return ""
}

// TestOneNumberTwice: two sides of a split gave one number to two hosts; when
// they meet, one claim stays.
func TestOneNumberTwice(t *testing.T) {
	c := newSmallCell(t)
	config := c.config("host2")
	second := c.start(config)
	tag := second.identity.Tag
	eventually.True(t, "it is linked", func() bool { return equal(c.first, second) })
	if got := alarm(second, "number-shared"); got != "" {
		t.Errorf("an alarm before: %s", got)
	}
	claim := fmt.Sprintf("/shoal/claims/tags/%d", tag)
	if _, err := c.first.db.Update(t.Context(), store.Update{Key: claim, Expect: store.Any, Value: []byte("host9 0011223344556677"), UID: "x"}); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the one whose claim was lost says so", func() bool { return alarm(second, "number-shared") != "" })
	stopped(t, second)
	second = c.start(config)
	if second.identity.Tag == tag || second.identity.Tag == 0 {
		t.Errorf("the number is %d still", second.identity.Tag)
	}
	if got := alarm(second, "number-shared"); got != "" {
		t.Errorf("an alarm after: %s", got)
	}
	put(t, second, "/registry/a")
	if e, _, err := second.db.Get("/registry/a", store.Latest); err != nil || e.Version.Tag() != second.identity.Tag {
		t.Errorf("version of %d, %v", e.Version.Tag(), err)
	}
}

// offClock is the machine's clock and some more.
type offClock struct{ ahead time.Duration }

func (c offClock) Now() time.Time                         { return time.Now().Add(c.ahead) }
func (c offClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (c *smallCell) restartAhead(p *peer, ahead time.Duration) *peer {
	config := p.config
	stopped(c.t, p)
	p = newPeer(c.t, config)
	p.clock = offClock{ahead}
	entered(c.t, p)
	c.cleanup(p)
	return p
}

// TestAClockFarAhead: no link is kept with such a peer, and both sides say why.
func TestAClockFarAhead(t *testing.T) {
	c := newSmallCell(t)
	second, third := c.start(c.config("host2")), c.start(c.config("host3"))
	eventually.True(t, "all are equal", func() bool { return equal(c.first, second, third) })
	second = c.restartAhead(second, 10*time.Minute)
	put(t, second, "/registry/future")
	put(t, c.first, "/registry/present")
	eventually.True(t, "the others go on", func() bool { return has(third, "/registry/present") })
	eventually.True(t, "all three have an alarm", func() bool {
		return strings.Contains(alarm(c.first, "link-refused"), "10m0s apart") &&
			strings.Contains(alarm(third, "link-refused"), "10m0s apart") && strings.Contains(alarm(second, "link-refused"), "10m0s apart")
	})
	if has(c.first, "/registry/future") || has(third, "/registry/future") {
		t.Error("a write from the future came through")
	}
	second = c.restartAhead(second, 0) // the clock is set
	eventually.True(t, "it is a peer like others again", func() bool { return has(second, "/registry/present") })
	if got := alarm(second, "link-refused"); got != "" {
		t.Error(got)
	}
}

// TestAClockAhead: what such a peer writes waits until its time has come.
func TestAClockAhead(t *testing.T) {
	c := newSmallCell(t)
	second := c.start(c.config("host2"))
	eventually.True(t, "both are equal", func() bool { return equal(c.first, second) })
	second = c.restartAhead(second, 8*time.Second)
	put(t, second, "/registry/future")
	wrote := time.Now()
	eventually.True(t, "it is held back, and there is an alarm", func() bool {
		if time.Since(wrote) > 4*time.Second { // its time comes before a busy host has heard of it
			put(t, second, fmt.Sprint("/registry/future/", time.Now().UnixNano()))
		}
		return alarm(c.first, "writes-held-back") != "" && strings.Contains(alarm(c.first, "clock-skew"), "host2")
	})
	if has(c.first, "/registry/future") && time.Since(wrote) < 6*time.Second {
		t.Error("it was not held back")
	}
	put(t, c.first, "/registry/present")
	eventually.True(t, "the present reaches the one ahead", func() bool { return has(second, "/registry/present") })
	eventually.True(t, "what was held back is let go", func() bool { return has(c.first, "/registry/future") && equal(c.first, second) })
	eventually.True(t, "the alarm ends", func() bool { return alarm(c.first, "writes-held-back") == "" })
}
