package store

import (
	"strconv"
	"strings"

	"shoal/store/vector"
)

// What every member holds, and of which no competing write is under way any
// more, is stable (causal stability; Baquero, Almeida and Shoker, "Making
// Operation-Based CRDTs Operation-Based", 2014). Only stable tombstones are
// reaped and only stable stamps collapsed. It is found in rounds: a round notes
// this peer's version and vector, and ends when every member has reported a
// vector that covers it, and this peer has all that each of them had by then. A
// member that is cut off holds the round up until it reports or is forgotten.
//
// A peer that joins is a member before it is given a snapshot: whoever gives one
// knows it, so that what all known members had by then is in the snapshot, and
// who reports after that has told of the new member. While it joins a peer finds
// nothing stable, as it does not know all members. What it was given by a
// snapshot that broke off goes before the next one begins (startover.go).
//
// What operators may rely on: forgetting a member never loses what another has,
// nor brings back what was deleted, under one condition: the hosts that joined
// through it are known to somebody else. The record of a host that joined goes to
// all it can reach within a second, so the condition fails only if such a host
// could reach nobody but the one forgotten ever since. Then the others wait for
// nobody with reaping, and the new host may still have what they reaped: forget
// it too, and have it join again. A host whose join has not ended begins anew
// with another member by itself.
//
// Writes that only the forgotten member had are lost with it. Of what it was
// giving to one peer in a reconciliation of sets when it was lost, some may be
// with that peer alone, as states without dots; the fingerprints of peers with
// equal vectors show that, and they are made equal (gossip/diverge.go).

// round is one such round in progress.
type round struct {
	at      Version
	needed  vector.Vector
	pending map[Actor]struct{}
	// seen is all that the members had when they reported: among it are their
	// own writes, and the members that joined with what they had then.
	seen vector.Vector
}

func memberActor(key string) (Actor, bool) {
	text, ok := strings.CutPrefix(key, MembersPrefix)
	if !ok || len(text) != 16 {
		return 0, false
	}
	a, err := strconv.ParseUint(text, 16, 64)
	return Actor(a), err == nil && a != 0
}

// MemberKey is where the record of the member with this actor is.
func MemberKey(a Actor) string {
	text := strconv.FormatUint(uint64(a), 16)
	return MembersPrefix + strings.Repeat("0", 16-len(text)) + text
}

// Report takes in what the member with that actor says it holds. It returns
// true if that shows that this peer's disk has lost writes it had answered:
// the caller must then see to it that Reincarnate is called.
func (r *Replica) Report(from Actor, v vector.Vector) (lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from == r.actor {
		return false
	}
	r.reportLocked(from, v)
	// What was lost before this peer was opened is fetched as any other write;
	// of what came later there would be two under one dot.
	unknown := r.vector.Missing(vector.Vector{r.actor: v[r.actor]})[r.actor]
	return len(unknown) > 0 && unknown[len(unknown)-1].Last > r.atOpen
}

func (r *Replica) reportLocked(from Actor, v vector.Vector) {
	if r.joining && !r.o.Faults.JudgeEarly {
		return // nor are all members known
	}
	if r.round.pending == nil {
		if r.unlogged {
			return // what is on disk is more than the vector tells
		}
		r.beginRound()
	}
	if _, ok := r.round.pending[from]; ok && len(v.Missing(r.round.needed)) == 0 {
		delete(r.round.pending, from)
		_ = r.round.seen.Merge(v)
	}
	r.endRound()
}

func (r *Replica) beginRound() {
	r.round = round{at: r.committed, needed: r.frontierLocked().vector, pending: make(map[Actor]struct{}), seen: vector.Vector{}}
	for a := range r.members {
		if !r.own(a) {
			r.round.pending[a] = struct{}{}
		}
	}
}

func (r *Replica) endRound() {
	for a := range r.round.pending {
		if _, ok := r.members[a]; ok && (!r.o.Faults.Impatient || len(r.round.seen) == 0) {
			return
		}
	}
	// Who joined meanwhile has what it has by a snapshot of a member, which knew
	// of it by then and had what it reported or reported it later.
	if len(r.vector.Missing(r.round.seen)) > 0 {
		return
	}
	r.stableAt = max(r.stableAt, r.round.at)
	r.round = round{}
}

// Stable returns the version up to which all is stable.
func (r *Replica) Stable() Version {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joining && !r.o.Faults.ReapEarly {
		return 0
	}
	if r.aloneLocked() || r.o.Faults.ReapEarly {
		return r.committed
	}
	return r.stableAt
}

func (r *Replica) stable(v Version) bool { return v <= r.Stable() }

// alone: this peer is the only member.
func (r *Replica) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.aloneLocked() && !r.joining
}

func (r *Replica) aloneLocked() bool {
	for a := range r.members {
		if !r.own(a) {
			return false
		}
	}
	return true
}

// memberChanged follows the records of members.
func (r *Replica) memberChanged(key string, live bool) {
	a, ok := memberActor(key)
	switch {
	case !ok:
	case live:
		if _, known := r.members[a]; !known {
			r.members[a] = struct{}{}
			// What was stable among fewer need not be among more, and the
			// new one has to be heard.
			r.round = round{}
		}
	default:
		delete(r.members, a)
	}
}
