//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/api"
	"shoal/api/claims"
	"shoal/api/control"
	v1 "shoal/api/control/v1"
	"shoal/api/joining"
	"shoal/api/pki"
	"shoal/gossip"
	"shoal/store"
)

const (
	// statusTimeout bounds asking gossip for its state.
	statusTimeout = 2 * time.Second
	// skewAlarm is how far apart clocks may be before it is an alarm: half of
	// what makes writes be held back.
	skewAlarm = 250 * time.Millisecond
	// refusedFor is how long a link refused is worth an alarm.
	refusedFor = time.Minute
	// gossipRingKey is the record of gossip's keyring.
	gossipRingKey = pki.KeysPrefix + "gossip.keys"
)

// cellMembers tells package control of the cell's members.
type cellMembers struct {
	*cellNode
	records claims.Records
}

var _ control.Members = (*cellMembers)(nil)

// Peers implements control.Members.
func (m *cellMembers) Peers() []v1.Peer {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	status, err := m.Status(ctx)
	peers := []v1.Peer{{Name: m.o.Identity.Name, State: v1.Alive, LagDeltas: lag(status)}}
	if err == nil {
		for _, p := range status.Peers {
			if p.Alive { // of the others, members are listed below
				peers = append(peers, m.peer(p))
			}
		}
	}
	for _, r := range m.registered() {
		if !slices.ContainsFunc(peers, func(p v1.Peer) bool { return p.Name == r.Name }) {
			peers = append(peers, v1.Peer{Name: r.Name, Address: r.Gossip.Addr().String(), State: v1.Failed, Actor: fmt.Sprintf("%016x", uint64(r.actor))})
		}
	}
	return peers
}

// lag is how much is known to be missing here: of any peer the most.
func lag(s gossip.Status) *uint64 {
	var most uint64
	for _, p := range s.Peers {
		most = max(most, p.Behind)
	}
	return &most
}

func (m *cellMembers) peer(p gossip.PeerStatus) v1.Peer {
	out := v1.Peer{
		Name: p.Name, Address: p.Address.String(), API: p.API, State: v1.Failed, Version: p.Version,
		Actor: fmt.Sprintf("%016x", uint64(p.Actor)), SentBytes: p.SentBytes, ReceivedBytes: p.ReceivedBytes, LastExchange: p.Exchanged,
	}
	if p.Alive {
		out.State = v1.Alive
	}
	if !p.Exchanged.IsZero() {
		ahead := p.Ahead
		out.LagDeltas = &ahead
	}
	if p.RTT > 0 {
		rtt := float64(p.RTT) / float64(time.Millisecond)
		out.RTTMillis = &rtt
	}
	if skew, ok := m.skew(p.Name); ok {
		ms := float64(skew) / float64(time.Millisecond)
		out.SkewMillis = &ms
	}
	return out
}

// Alarms implements control.Members.
func (m *cellMembers) Alarms() []v1.Alarm {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	var alarms []v1.Alarm
	if s, err := m.Status(ctx); err == nil && s.Alarm != nil {
		alarms = append(alarms, v1.Alarm{Code: s.Alarm.Code, Title: s.Alarm.Text, Severity: s.Alarm.Severity, Fix: s.Alarm.Fix})
	}
	if n := m.o.DB.Stats().HeldBack; n > 0 {
		alarms = append(alarms, v1.Alarm{
			Code: "writes-held-back", Severity: v1.Critical,
			Title: fmt.Sprintf("%d writes of other peers are held back, because their clocks are ahead of this one's", n),
			Fix:   "set the clocks: `timedatectl set-ntp true` on the host whose clock is off",
		})
	}
	if n := m.o.DB.Stats().LostWrites; n > 0 {
		alarms = append(alarms, v1.Alarm{
			Code: "writes-lost", Severity: v1.Critical,
			Title: fmt.Sprintf("the disk of %s had lost %d writes when the daemon started; those that another peer holds have come back", m.o.Identity.Name, n),
			Fix:   "check the disk (dmesg; smartctl -a); if this is the only host, compare with a backup",
		})
	}
	tags := joining.Tags{Records: m.records}
	if holder, err := tags.Holder(ctx, m.o.Identity.Tag); err == nil && holder != "" && holder != m.o.Identity.Name {
		alarms = append(alarms, v1.Alarm{
			Code: "number-shared", Severity: v1.Critical,
			Title: fmt.Sprintf("%s has the number of %s (%d), as they joined on two sides of a split; resource versions of the two cannot be told apart", m.o.Identity.Name, holder, m.o.Identity.Tag),
			Fix:   "restart the daemon on " + m.o.Identity.Name + ", which takes another number: shoal stop; shoal start --detach",
		})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for peer, skew := range m.skews {
		if skew.Abs() > skewAlarm {
			alarms = append(alarms, v1.Alarm{
				Code: "clock-skew", Severity: v1.Warning,
				Title: fmt.Sprintf("the clock of %s is %s off from this host's", peer, skew.Round(time.Millisecond)),
				Fix:   "set the clocks: `timedatectl set-ntp true`",
			})
		}
	}
	for peer, r := range m.refused {
		if time.Since(r.at) < refusedFor {
			alarms = append(alarms, v1.Alarm{Code: "link-refused", Severity: v1.Critical, Title: "no link with " + peer + ": " + r.reason, Since: r.at,
				Fix: "do what the reason says; `shoal doctor` on both hosts checks clocks and ports"})
		}
	}
	slices.SortFunc(alarms, func(a, b v1.Alarm) int { return strings.Compare(a.Title, b.Title) })
	return alarms
}

// Leave implements control.Members.
func (m *cellMembers) Leave(ctx context.Context) error {
	if err := m.release(ctx, m.o.Identity.Name); err != nil {
		return err
	}
	return m.leave(ctx)
}

// Forget implements control.Members.
func (m *cellMembers) Forget(ctx context.Context, name string) error {
	if err := m.forget(ctx, name); err != nil {
		return err
	}
	return m.release(ctx, name)
}

// release gives back what a host had claimed: its number and its pods' range.
func (m *cellMembers) release(ctx context.Context, name string) error {
	err := joining.Tags{Records: m.records}.Forget(ctx, name)
	return errors.Join(err, api.ReleasePodCIDR(ctx, m.o.DB, name))
}

// RotateKeys implements control.Members. Members' rings are changed by gossip;
// the record is for those that start later.
func (m *cellMembers) RotateKeys(ctx context.Context) error {
	key := pki.NewRingKey()
	if err := m.RotateKey(key); err != nil {
		return err
	}
	value := pki.EncodeRing([][]byte{key})
	u := store.Update{Key: gossipRingKey, Expect: store.Any, Value: value}
	e, _, err := m.o.DB.Get(u.Key, store.Latest)
	if err != nil {
		return fmt.Errorf("keep the new key: %w", err)
	}
	u.UID = e.UID
	if _, err := m.o.DB.Update(ctx, u); err != nil {
		return fmt.Errorf("keep the new key: %w", err)
	}
	return nil
}
