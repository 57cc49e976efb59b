package membership

import "time"

// Limits of what rumours can make a peer do.
const (
	// maxDoubted members are probed at a time; a rumour that revives more is
	// looked at when the next one comes, or a probe has ended.
	maxDoubted = 2048
	// probeEvery is how often a doubted member is probed, doubling up to
	// probeEvery<<maxProbeShift.
	probeEvery    = time.Second
	maxProbeShift = 5
)

// beliefs decides which members this peer believes to be alive. It is pure:
// rumours and the results of probes go in, events and probes to make come out.
type beliefs struct {
	members map[string]*belief
	doubted int
}

type belief struct {
	member Member
	// alive is what the consumer was told.
	alive bool
	// doubted: said to be alive, not yet proven.
	doubted bool
	attempt int
	due     time.Time
}

func newBeliefs() beliefs { return beliefs{members: make(map[string]*belief)} }

// rumour takes in what serf says of a member, and returns what to tell.
func (b *beliefs) rumour(kind Kind, m Member, now time.Time) []Event {
	known := b.members[m.Name]
	switch {
	case kind == Joined && known == nil:
		b.members[m.Name] = &belief{member: m, alive: true}
		return []Event{{Joined, m}}
	case known == nil:
		if kind != Forgotten {
			b.members[m.Name] = &belief{member: m}
		}
		return nil
	case kind == Joined:
		known.member = m
		if !known.alive && !known.doubted && b.doubted < maxDoubted {
			known.doubted, known.attempt, known.due = true, 0, now
			b.doubted++
		}
		return nil
	case kind == Updated:
		known.member = m
		if known.alive {
			return []Event{{Updated, m}}
		}
		return nil
	}
	return b.gone(kind, known, m)
}

func (b *beliefs) gone(kind Kind, known *belief, m Member) []Event {
	was := known.alive
	b.trust(known)
	known.member, known.alive = m, false
	if kind == Forgotten {
		delete(b.members, m.Name)
		return []Event{{Forgotten, m}}
	}
	if !was {
		return nil
	}
	return []Event{{kind, m}}
}

func (b *beliefs) trust(known *belief) {
	if known.doubted {
		known.doubted = false
		b.doubted--
	}
}

// due returns the members to probe now.
func (b *beliefs) due(now time.Time) []Member {
	var probes []Member
	for _, k := range b.members {
		if k.doubted && !now.Before(k.due) {
			k.due = now.Add(probeEvery << min(k.attempt, maxProbeShift))
			k.attempt++
			probes = append(probes, k.member)
		}
	}
	return probes
}

// probed takes in that a member answered at the address it was probed at.
func (b *beliefs) probed(m Member) []Event {
	known := b.members[m.Name]
	if known == nil || !known.doubted || known.member.Address != m.Address {
		return nil
	}
	b.trust(known)
	known.alive = true
	return []Event{{Joined, known.member}}
}

// alive returns those believed to be alive.
func (b *beliefs) alive() []Member {
	var out []Member
	for _, k := range b.members {
		if k.alive {
			out = append(out, k.member)
		}
	}
	return out
}
