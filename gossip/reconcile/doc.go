// Package reconcile finds what one peer has and another lacks when no log covers
// the difference any more, for little traffic: a Session finds the differing keys
// of two sets of (key, version) by exchanging fingerprints of ranges and splitting
// those that differ (Meyer, "Range-Based Set Reconciliation", 2023). Peers whose
// logs still hold the difference compare version vectors instead (store/vector).
//
// What always holds: all of it is pure and deterministic; what a decoder
// accepts has a canonical form and stays within this package's limits; the
// number of rounds of a session is logarithmic in the size of the sets.
//
// Fingerprints are sums of 128-bit hashes. They guard against accidents, and
// against peers of the cell that merely err; a peer of this cell that forges
// versions to make sums collide is not defended against here.
//
// It is called by gossip. It moves no records and knows nothing of their
// content.
package reconcile
