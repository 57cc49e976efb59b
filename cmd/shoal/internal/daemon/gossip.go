//go:build linux

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"shoal/gossip"
	"shoal/gossip/join"
	"shoal/gossip/reconcile"
	"shoal/gossip/stream"
	"shoal/store"
	"shoal/store/vector"
)

const (
	// joinPoll is how often a host that joins looks whether it has all.
	joinPoll = 50 * time.Millisecond
	// maxLinkSkew is how far clocks may differ for two peers to link: beyond it
	// everything one writes would be held back at the other.
	maxLinkSkew = 30 * time.Second
	// forgottenPrefix begins the keys of the records of actors that are members
	// no more and may never be again, by their hexadecimal form.
	forgottenPrefix = "/shoal/forgotten/"
)

// cellNode is this host's part in the cell.
type cellNode struct {
	*gossip.Node
	o gossipOptions

	mu    sync.Mutex
	skews map[string]time.Duration // guarded by mu; of peers' clocks against ours
	// refused is why links to others were refused, guarded by mu.
	refused map[string]refusedLink
	// told is that a peer said this host is no member any more, guarded by mu.
	told string
	// leaving: this host takes leave by itself.
	leaving atomic.Bool
}

type refusedLink struct {
	reason string
	at     time.Time
}

// startGossip opens both ports.
func startGossip(o gossipOptions) (*cellNode, error) {
	c := &cellNode{o: o, skews: make(map[string]time.Duration), refused: make(map[string]refusedLink)}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("start gossip: the cell's certificate authority cannot be read")
	}
	var err error
	c.Node, err = gossip.New(gossip.Options{
		Name: o.Identity.Name, Store: o.DB, Tag: o.Identity.Tag, Version: o.Version, API: o.API,
		Gossip:    netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(o.Port)),
		Streams:   netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(o.Port+1)),
		Advertise: o.NodeIP, Keys: o.Keys,
		Identity: stream.Identity{Roots: func() *x509.CertPool { return roots }, Certificate: o.Certificate.Certificate},
		Seeds:    c.seeds, Admit: c.admit, Refused: c.refusedBy, Diverged: c.diverged,
		Others: map[string]stream.Other{join.Protocol: joinOther(o.Join)},
		Logger: o.Logger, Clock: o.Clock.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w; if another process has port %d or %d, find it with `ss -lntup`, or give another with --gossip-port", err, o.Port, o.Port+1)
	}
	return c, nil
}

// AwaitSnapshot returns once this store holds what a peer's held.
func (c *cellNode) AwaitSnapshot(ctx context.Context) error {
	tick := time.NewTicker(joinPoll)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		if err == nil && !s.Joining {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if said := c.refusals(); said != "" {
				return fmt.Errorf("no peer has given this host the cell's records: %w; they say: %s", context.Cause(ctx), said)
			}
			return fmt.Errorf("no peer has given this host the cell's records: %w; are the ports %d (TCP and UDP) and %d open between the hosts?", context.Cause(ctx), c.o.Port, c.o.Port+1)
		}
	}
}

// Alive reports whether a member of that name answers.
func (c *cellNode) Alive(name string) bool {
	return slices.ContainsFunc(c.Members(), func(p gossip.Peer) bool { return p.Name == name })
}

// Names are those of the members that answer, this one among them.
func (c *cellNode) Names() []string {
	var names []string
	for _, p := range c.Members() {
		names = append(names, p.Name)
	}
	return names
}

// Addresses are where members that answer are heard: on the port before the
// links'.
func (c *cellNode) Addresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range c.Members() {
		if a, err := netip.ParseAddrPort(p.StreamAddress); err == nil && a.Port() > 1 {
			out = append(out, netip.AddrPortFrom(a.Addr(), a.Port()-1))
		}
	}
	return out
}

// seeds are where members may be found: where they were when this host joined,
// and where their records say.
func (c *cellNode) seeds() []string {
	own := netip.AddrPortFrom(c.o.NodeIP, uint16(c.o.Port))
	var out []string
	add := func(a netip.AddrPort) {
		if text := a.String(); a.IsValid() && a != own && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, m := range c.registered() {
		add(m.Gossip)
	}
	for _, a := range c.o.Identity.Peers {
		add(a)
	}
	return out
}

// member is a peer as it has registered itself; its record is a member of the
// cell until it is forgotten.
type member struct {
	Name   string         `json:"name"`
	Tag    store.Tag      `json:"tag"`
	Gossip netip.AddrPort `json:"gossip"`
	Joined time.Time      `json:"joined"`

	actor vector.Actor
}

// registered lists the cell's members.
func (c *cellNode) registered() []member { return membersIn(c.o.DB) }

func membersIn(db *store.DB) []member {
	entries, _, err := db.List(store.Range{Prefix: store.MembersPrefix}, store.Latest)
	if err != nil {
		return nil
	}
	var members []member
	for e, err := range entries {
		if err != nil {
			break
		}
		var m member
		actor, actorErr := strconv.ParseUint(strings.TrimPrefix(e.Key, store.MembersPrefix), 16, 64)
		if json.Unmarshal(e.Value, &m) == nil && actorErr == nil {
			m.actor = vector.Actor(actor)
			members = append(members, m)
		}
	}
	return members
}

// register makes this host's present incarnation a member, and then takes out
// earlier ones: at once where the disk was lost, as nothing is on it any more;
// where it is the same disk, once every member knows the present one. Until then
// the others wait for the earlier one, or this host would count nowhere. It fails
// with a *twinError where another host is this member.
func (c *cellNode) register(ctx context.Context) error {
	actor := c.o.DB.Actor()
	self := member{Name: c.o.Identity.Name, Tag: c.o.Identity.Tag, Gossip: netip.AddrPortFrom(c.o.NodeIP, uint16(c.o.Port)), Joined: time.Now().UTC().Truncate(time.Second)}
	if _, _, err := c.o.DB.Get(forgottenKey(actor), store.Latest); err == nil {
		return nil // it left, or was forgotten
	}
	known, own := c.known(actor), false
	var earlier []member
	for _, m := range c.registered() {
		switch {
		case m.Name != self.Name:
		case m.actor == actor && m.Gossip != self.Gossip && c.twin(ctx, m.Gossip):
			return &twinError{self.Name, m.Gossip}
		case m.actor == actor:
			own, self.Joined = m.Gossip == self.Gossip, m.Joined
		case known || !slices.Contains(c.o.DB.Former(), m.actor):
			earlier = append(earlier, m)
		}
	}
	if !own {
		if err := c.enrol(ctx, actor, self); err != nil {
			return err
		}
	}
	for _, m := range earlier {
		if err := c.retire(ctx, m.actor, "this host goes on as another"); err != nil {
			return err
		}
	}
	return nil
}

// known: every member has the record of this actor.
func (c *cellNode) known(actor vector.Actor) bool {
	e, _, err := c.o.DB.Get(store.MemberKey(actor), store.Latest)
	return err == nil && e.Version <= c.o.DB.Stats().Stable
}

func (c *cellNode) enrol(ctx context.Context, actor vector.Actor, self member) error {
	value, err := json.Marshal(self)
	if err != nil {
		return fmt.Errorf("register this host: %w", err)
	}
	u := store.Update{Key: store.MemberKey(actor), Expect: store.Any, Value: value, UID: uuid.NewString()}
	if e, _, err := c.o.DB.Get(u.Key, store.Latest); err == nil {
		u.UID = e.UID
	}
	if _, err := c.o.DB.Update(ctx, u); err != nil {
		return fmt.Errorf("register this host: %w", err)
	}
	return nil
}

// retire takes an actor out of the cell for good: from now on nothing waits for
// it, and it is not let in again.
func (c *cellNode) retire(ctx context.Context, actor vector.Actor, why string) error {
	note := store.Update{Key: forgottenKey(actor), Expect: store.Absent, Value: []byte(why), UID: uuid.NewString()}
	var conflict *store.ConflictError
	if _, err := c.o.DB.Update(ctx, note); err != nil && !errors.As(err, &conflict) {
		return fmt.Errorf("note that a member is gone: %w", err)
	}
	_, err := c.o.DB.Update(ctx, store.Update{Key: store.MemberKey(actor), Expect: store.Any, Delete: true})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("remove a member: %w", err)
	}
	return nil
}

func forgottenKey(a vector.Actor) string {
	return forgottenPrefix + strings.TrimPrefix(store.MemberKey(a), store.MembersPrefix)
}

// admit refuses those who were forgotten, and those whose clock is far off.
func (c *cellNode) admit(peer string, actor vector.Actor, clock time.Time) error {
	skew := clock.Sub(c.o.Clock.Now())
	err := c.mayLink(peer, actor, skew)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skews[peer] = skew
	if err != nil {
		c.refused[peer] = refusedLink{err.Error(), time.Now()}
	} else {
		delete(c.refused, peer)
	}
	return err
}

func (c *cellNode) mayLink(peer string, actor vector.Actor, skew time.Duration) error {
	if skew.Abs() > maxLinkSkew {
		return fmt.Errorf("the clocks of %s and %s are %s apart, and at most %s is let be; set them, for example with `timedatectl set-ntp true`", peer, c.o.Identity.Name, skew.Abs().Round(time.Second), maxLinkSkew)
	}
	if _, _, err := c.o.DB.Get(forgottenKey(actor), store.Latest); err == nil {
		return fmt.Errorf("%s %s, and what it holds may have been deleted since; join it again with a new token (`shoal token create` on a member, then `shoal start --join … --token …` there)", peer, removedText)
	}
	return nil
}

// diverged dumps keys under which two peers with equal vectors held different
// records.
func (c *cellNode) diverged(peer string, differing []reconcile.Difference) {
	const shown = 20
	keys := make([]string, 0, shown)
	for _, d := range differing[:min(shown, len(differing))] {
		keys = append(keys, d.Key)
	}
	c.o.Logger.Error("two peers hold different records though both have every write; they are made equal again", "peer", peer, "keys", len(differing), "first", keys)
}

// joinOther serves those who join, from when the API answers.
func joinOther(service func() *join.Service) stream.Other {
	return stream.Other{
		Config: func() *tls.Config {
			if s := service(); s != nil {
				return s.TLS()
			}
			return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return nil, errStarting
			}}
		},
		Serve: func(ctx context.Context, conn *tls.Conn) {
			if s := service(); s != nil {
				s.Handle(ctx, conn)
			}
		},
	}
}

// forget takes out all incarnations of a member.
func (c *cellNode) forget(ctx context.Context, name string) error {
	for _, m := range c.registered() {
		if m.Name != name {
			continue
		}
		if err := c.retire(ctx, m.actor, "forgotten by hand"); err != nil {
			return err
		}
	}
	if err := c.Forget(name); err != nil {
		c.o.Logger.Debug("forget a member in gossip", "name", name, "error", err) // it is gone there already
	}
	return nil
}

// leave tells the others that this host goes, and waits until one of them knows.
func (c *cellNode) leave(ctx context.Context) error {
	c.leaving.Store(true)
	if err := c.retire(ctx, c.o.DB.Actor(), "left"); err != nil {
		return err
	}
	c.awaitHeard(ctx)
	// Not before the others know: a host that is told to leave again must be
	// able to.
	return errors.Join(c.o.Part("left"), c.Leave(ctx))
}

// awaitHeard waits, within reason, until a peer holds what this host wrote last.
func (c *cellNode) awaitHeard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		if err != nil || len(s.Peers) == 0 {
			return
		}
		for _, p := range s.Peers {
			if p.Connected && p.Ahead == 0 && time.Since(p.Exchanged) < time.Second {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *cellNode) skew(peer string) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	skew, ok := c.skews[peer]
	return skew, ok
}
