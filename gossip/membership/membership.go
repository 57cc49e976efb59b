package membership

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// FrontierTag holds the digest of what a peer has merged.
const FrontierTag = "frontier"

// Limits.
const (
	// maxTagBytes is what memberlist's 512 bytes leave after serf's framing.
	maxTagBytes = 400
	// eventsWaiting: beyond it the consumer is told to look at Members.
	eventsWaiting = 1024
	// serfEvents is how far serf may run ahead of this package.
	serfEvents = 512
	// probeTick is how often doubted members are looked at.
	probeTick = 200 * time.Millisecond
	// maxProbes at once.
	maxProbes = 16
)

// Kind is what happened to a member.
type Kind uint8

// The kinds of events.
const (
	Joined Kind = iota + 1
	Updated
	Left
	Failed
	// Forgotten: failed or left so long ago that serf no longer knows it, or
	// taken out by hand.
	Forgotten
)

func (k Kind) String() string {
	return [...]string{"", "joined", "updated", "left", "failed", "forgotten"}[k]
}

// Member is one peer as it describes itself.
type Member struct {
	Name    string
	Address netip.AddrPort
	Tags    map[string]string
}

// Event is a change the consumer should know of.
type Event struct {
	Kind   Kind
	Member Member
}

// Options of a Membership.
type Options struct {
	// Name is the node's, unique in the cell.
	Name string
	// Listen is where to hear others, TCP and UDP; port 0 picks one.
	Listen netip.AddrPort
	// Advertise is where others reach this peer, if not at Listen.
	Advertise netip.AddrPort
	// Keys is the cell's ring, the first of them encrypts; 16, 24 or 32 bytes
	// each. There must be one.
	Keys [][]byte
	// Tags of this peer.
	Tags map[string]string
	// Timing adapts to the network; the zero value suits one data centre.
	Timing Timing
	Logger *slog.Logger
}

// Timing may be made faster where all peers are on one host.
type Timing struct {
	ProbeEvery, ProbeTimeout, GossipEvery time.Duration
}

// Membership is this peer's view of the cell.
type Membership struct {
	serf   *serf.Serf
	log    *slog.Logger
	raw    chan serf.Event
	events chan Event

	mu      sync.Mutex
	beliefs beliefs           // guarded by mu
	tags    map[string]string // guarded by mu
	missed  uint64            // guarded by mu
}

// Start listens. The caller must Run it.
func Start(o Options) (*Membership, error) {
	if o.Name == "" || len(o.Keys) == 0 {
		return nil, errors.New("start membership: a name and at least one key are needed")
	}
	if err := checkTags(o.Tags); err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(o.Keys, o.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("start membership: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m := &Membership{
		log: o.Logger, raw: make(chan serf.Event, serfEvents), events: make(chan Event, eventsWaiting),
		beliefs: newBeliefs(), tags: maps.Clone(o.Tags),
	}
	if m.serf, err = serf.Create(config(o, ring, m.raw)); err != nil {
		return nil, fmt.Errorf("start membership on %s: %w", o.Listen, err)
	}
	return m, nil
}

func config(o Options, ring *memberlist.Keyring, raw chan serf.Event) *serf.Config {
	c := serf.DefaultConfig()
	c.Init()
	c.NodeName, c.Tags, c.EventCh = o.Name, maps.Clone(o.Tags), raw
	if c.Tags == nil {
		c.Tags = map[string]string{}
	}
	c.ValidateNodeNames = true
	// A conflict of names is settled by certificates, not by a vote after
	// which a node leaves.
	c.EnableNameConflictResolution = false
	c.Logger = log.New(newSerfLog(o.Logger), "", 0)
	l := c.MemberlistConfig
	l.Logger, l.Keyring = c.Logger, ring
	l.BindAddr, l.BindPort = o.Listen.Addr().String(), int(o.Listen.Port())
	l.AdvertisePort = int(o.Listen.Port())
	if o.Advertise.IsValid() {
		l.AdvertiseAddr, l.AdvertisePort = o.Advertise.Addr().String(), int(o.Advertise.Port())
	}
	l.ProbeInterval = cmp.Or(o.Timing.ProbeEvery, l.ProbeInterval)
	l.ProbeTimeout = cmp.Or(o.Timing.ProbeTimeout, l.ProbeTimeout)
	l.GossipInterval = cmp.Or(o.Timing.GossipEvery, l.GossipInterval)
	return c
}

// Run takes in what serf says until ctx ends, then stops it. It does not leave
// the cell: to the others this peer then fails, unless Leave was called.
func (m *Membership) Run(ctx context.Context) error {
	var children sync.WaitGroup
	defer children.Wait()
	slots := make(chan struct{}, maxProbes)
	var tick <-chan time.Time
	for {
		if tick == nil && m.doubts() { // else nothing wakes an idle host
			tick = time.After(probeTick)
		}
		select {
		case <-ctx.Done():
			return m.stop()
		case e := <-m.raw:
			m.hear(e)
		case now := <-tick:
			tick = nil
			m.mu.Lock()
			probes := m.beliefs.due(now)
			m.mu.Unlock()
			for _, p := range probes {
				children.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					m.probe(p)
				})
			}
		}
	}
}

// doubts reports whether a member is said to be back and has yet to prove it.
// Only hear, which Run itself calls, begins to doubt one.
func (m *Membership) doubts() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beliefs.doubted > 0
}

func (m *Membership) stop() error {
	// serf must be able to hand over its events while it stops.
	stopped := make(chan error, 1)
	go func() { stopped <- m.serf.Shutdown() }()
	for {
		select {
		case err := <-stopped:
			if err != nil {
				return fmt.Errorf("stop membership: %w", err)
			}
			return nil
		case <-m.raw:
		}
	}
}

var kinds = map[serf.EventType]Kind{
	serf.EventMemberJoin: Joined, serf.EventMemberUpdate: Updated, serf.EventMemberLeave: Left,
	serf.EventMemberFailed: Failed, serf.EventMemberReap: Forgotten,
}

func (m *Membership) hear(e serf.Event) {
	members, ok := e.(serf.MemberEvent)
	if !ok {
		return // no state in serf's events
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range members.Members {
		m.tell(m.beliefs.rumour(kinds[members.Type], member(s), time.Now()))
	}
}

// tell is called with mu held. It does not wait for a consumer that is slow.
func (m *Membership) tell(events []Event) {
	for _, e := range events {
		select {
		case m.events <- e:
		default:
			m.missed++
		}
	}
}

// probe asks the member itself.
func (m *Membership) probe(p Member) {
	if _, err := m.serf.Memberlist().Ping(p.Name, net.UDPAddrFromAddrPort(p.Address)); err != nil {
		m.log.Debug("a member said to be back does not answer", "member", p.Name, "error", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(m.beliefs.probed(p))
}

func member(s serf.Member) Member {
	a, _ := netip.AddrFromSlice(s.Addr)
	return Member{Name: s.Name, Address: netip.AddrPortFrom(a.Unmap(), s.Port), Tags: maps.Clone(s.Tags)}
}

// Join introduces this peer to those at the addresses, host:port, and returns
// how many answered.
func (m *Membership) Join(addresses []string) (int, error) {
	n, err := m.serf.Join(addresses, true)
	if n == 0 && err != nil {
		return 0, fmt.Errorf("join %s: %w", strings.Join(addresses, ", "), err)
	}
	return n, nil
}

// Leave tells the others that this peer goes on purpose.
func (m *Membership) Leave() error {
	if err := m.serf.Leave(); err != nil {
		return fmt.Errorf("leave the cell: %w", err)
	}
	return nil
}

// Forget takes out a member that failed.
func (m *Membership) Forget(name string) error {
	if err := m.serf.RemoveFailedNodePrune(name); err != nil {
		return fmt.Errorf("forget member %s: %w", name, err)
	}
	return nil
}

// Events delivers changes in order. Missed counts those for which there was no
// room; Members is then the way to be current again.
func (m *Membership) Events() <-chan Event { return m.events }

// Missed returns how many events were dropped because Events was not read.
func (m *Membership) Missed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.missed
}

// Members returns the peers believed to be alive, this one among them, sorted.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive := m.beliefs.alive()
	slices.SortFunc(alive, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return alive
}

// Address is where this peer is heard.
func (m *Membership) Address() netip.AddrPort { return member(m.serf.LocalMember()).Address }

// SetTag changes one of this peer's tags for all to see.
func (m *Membership) SetTag(name, value string) error {
	m.mu.Lock()
	tags := maps.Clone(m.tags)
	if tags == nil {
		tags = map[string]string{}
	}
	tags[name] = value
	err := checkTags(tags)
	if err == nil {
		m.tags = tags
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.serf.SetTags(maps.Clone(tags)); err != nil {
		return fmt.Errorf("set tag %s: %w", name, err)
	}
	return nil
}

func checkTags(tags map[string]string) error {
	n := 0
	for k, v := range tags {
		n += len(k) + len(v) + 4
	}
	if n > maxTagBytes {
		return fmt.Errorf("set tags: %d bytes, limit %d", n, maxTagBytes)
	}
	return nil
}

// RTT estimates the time to a member and back, from network coordinates
// (Dabek et al., "Vivaldi", 2004); false if it is not known.
func (m *Membership) RTT(name string) (time.Duration, bool) {
	theirs, ok := m.serf.GetCachedCoordinate(name)
	ours, err := m.serf.GetCoordinate()
	if !ok || err != nil {
		return 0, false
	}
	return ours.DistanceTo(theirs), true
}

// RotateKey makes key the one that encrypts, on all peers, and removes all
// others. It stops where a step did not reach every peer: each step leaves the
// cell able to talk, and the whole can be done again.
func (m *Membership) RotateKey(key []byte) error {
	keys, text := m.serf.KeyManager(), base64.StdEncoding.EncodeToString(key)
	if err := memberlist.ValidateKey(key); err != nil {
		return fmt.Errorf("rotate keys: %w", err)
	}
	if r, err := keys.InstallKey(text); err != nil {
		return rotateError("install the new key", r, err)
	}
	if r, err := keys.UseKey(text); err != nil {
		return rotateError("use the new key", r, err)
	}
	list, err := keys.ListKeys()
	if err != nil {
		return rotateError("list keys", list, err)
	}
	for old := range list.Keys {
		if old == text {
			continue
		}
		if r, err := keys.RemoveKey(old); err != nil {
			return rotateError("remove an old key", r, err)
		}
	}
	return nil
}

func rotateError(step string, r *serf.KeyResponse, err error) error {
	if r == nil {
		return fmt.Errorf("rotate keys: %s: %w", step, err)
	}
	return fmt.Errorf("rotate keys: %s: %d of %d peers answered, %d with an error; run it again when all are up: %w",
		step, r.NumResp, r.NumNodes, r.NumErr, err)
}
