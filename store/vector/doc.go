// Package vector says which deltas of which actors a peer holds: version vectors
// with gaps (Malkhi and Terry, "Concise Version Vectors in WinFS", 2005).
//
// What always holds: vectors are sets of (actor, sequence) with one canonical
// form in memory and on the wire; every operation is pure and bounded by the
// limits of this package. Comparing two vectors names the deltas one peer must
// fetch from the other.
//
// It is called by store, which keeps a peer's vector, and by gossip, which
// compares those of two peers.
package vector
