// Package reconcile finds what one peer has and another lacks, for little
// traffic. It has two ways to do so:
//
//   - A Vector says which sequence numbers of which actors are held, gaps
//     included. Comparing two of them names the deltas to fetch. This is the
//     way for peers whose logs still hold those deltas.
//   - A Session finds the differing keys of two sets of (key, version) by
//     exchanging fingerprints of ranges and splitting those that differ
//     (Meyer, "Range-Based Set Reconciliation", 2023). This is the way for a
//     peer far behind, whose gaps no log covers any more.
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
