package gossip

import "time"

// Limits of what a peer keeps for others and believes of them.
const (
	// answerBytes is the aim for one answer: large enough that a peer far
	// behind is not slowed by round trips, small enough that broadcasts on the
	// same link wait a few milliseconds for it.
	answerBytes = 512 << 10
	// wantDots and wantSpans bound one question.
	wantDots  = 4096
	wantSpans = 1024
	// stateKeys and stateKeyBytes bound the keys of one question.
	stateKeys     = 1024
	stateKeyBytes = 128 << 10
	// frameDeltas bounds the deltas of one frame; the smallest takes 20 bytes.
	frameDeltas = 1 << 16
	// holdBytes may wait to be merged for one link before it is not read any
	// more, overBytes before it is cut: a driver that goes on reading lets
	// through what TCP had under way, not more.
	holdBytes = 8 << 20
	overBytes = 32 << 20
	// holdDeltas may wait likewise: of small ones not so many that the store
	// needs more than some seconds for them, and others wait as long.
	holdDeltas = 16 << 10
	// pushBurst and pushRate bound the records that one link may push: eight
	// times what the busiest cell writes. A peer's own count fully, those it
	// passes on a quarter, so that not the messenger is cut.
	pushBurst = 30_000
	pushRate  = 5_000
	relayCost = 0.25
	// compareBurst and compareRate bound the comparisons answered on one link.
	compareBurst = 50
	compareRate  = 20
	// maxSequence is what an actor cannot reach: 10,000 writes a second for
	// 800 years.
	maxSequence = 1 << 48
	// manyMissing deltas are asked for at once: no broadcast brings so many.
	manyMissing = 1024
	// maxSteps and maxRounds of one set session: the steps are logarithmic in
	// its size, a round asks for at least one key.
	maxSteps  = 64
	maxRounds = 1 << 20
	// maxParts of one snapshot: 16 GiB.
	maxParts = 1 << 16
	// maxSnapshots are given at a time.
	maxSnapshots = 2
	// maxRefusals of snapshots to one peer over one link: one that joins asks
	// again after seconds.
	maxRefusals = 256
	// maxAnswers are worked on for one link at a time; an honest peer asks
	// for one of each kind and waits.
	maxAnswers = 8
	// maxSuspects are watched for divergence.
	maxSuspects = 4
	// maxDumped differing keys are handed out when peers have diverged.
	maxDumped = 1000
)

// Timing is how patient a Core is.
type Timing struct {
	// Exchange is how often it compares with a member, give or take a quarter.
	Exchange time.Duration
	// Patience is how long the tree may take to bring what another has.
	Patience time.Duration
	// Answer is how long a question may go unanswered.
	Answer time.Duration
	// Idle links outside the tree are closed after so long.
	Idle time.Duration
	// Session and Snapshot end if nothing came for so long.
	Session time.Duration
	// Retry is how long to wait after one of them failed.
	Retry time.Duration
	// Diverged is how long equal vectors may go with different records.
	Diverged time.Duration
	// Recheck is how often a suspect is compared with meanwhile.
	Recheck time.Duration
	// HeldBack is how long what the store did not take is not asked for.
	HeldBack time.Duration
}

// DefaultTiming suits a cell whose hosts are some milliseconds apart.
var DefaultTiming = Timing{
	Exchange: time.Second,
	Patience: 300 * time.Millisecond,
	Answer:   10 * time.Second,
	Idle:     10 * time.Second,
	Session:  20 * time.Second,
	Retry:    2 * time.Second,
	Diverged: 60 * time.Second,
	Recheck:  5 * time.Second,
	HeldBack: 5 * time.Second,
}
