package store

// Faults are deliberate mistakes, for the simulator to show that it finds
// them. A DB cannot be given any; unset, each costs a test of a flag.
type Faults struct {
	// SkipTombstone notes deletions of others as held without merging them.
	SkipTombstone bool
	// IgnoreActor keeps what is there where two stamps have the same time.
	IgnoreActor bool
	// IgnoreLength merges by stamps alone, whatever the causal lengths.
	IgnoreLength bool
	// ForgetGap notes all earlier dots of an actor with each.
	ForgetGap bool
	// KeepActor goes on as the same actor after the disk lost writes.
	KeepActor bool
	// ChunkFirst writes the log before the records it vouches for.
	ChunkFirst bool
	// ClaimFirst notes dots whose states could not be written.
	ClaimFirst bool
	// ReapEarly takes every tombstone for stable.
	ReapEarly bool
	// ForgetFloor reaps without raising the floor.
	ForgetFloor bool
	// Impatient counts a member out of stability that has not reported.
	Impatient bool
	// DropHeld notes the dots of deltas from the future and drops them.
	DropHeld bool
	// CollapseEarly takes every stamp for stable.
	CollapseEarly bool
	// ReuseSequence gives the sequence numbers of a failed commit out again.
	ReuseSequence bool
	// VoidState answers for a dot with a void where there is a state.
	VoidState bool
	// OldFloor lets a snapshot's floor be ignored.
	OldFloor bool
	// ForgetOrphans leaves what a torn commit left without a dot.
	ForgetOrphans bool
	// VoidOwn voids this actor's dots in a commit that failed, also those that
	// it had lost and that came back from others.
	VoidOwn bool
	// RetireFirst takes a former actor out before all know the present one.
	RetireFirst bool
	// JudgeEarly goes through rounds of stability while joining.
	JudgeEarly bool
	// KeepGiven starts a snapshot over what an earlier one left.
	KeepGiven bool
	// KeepQuiet does not repeat a tombstone to who has not heard of it.
	KeepQuiet bool
}
