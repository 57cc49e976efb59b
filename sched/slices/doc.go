// Package slices cuts the cell's work into 256 parts and says which of them
// this peer leads.
//
// A slice is an equal part of the 64-bit FNV-1a space, the hash of Kubernetes'
// shardRange selectors (KEP-5866): the scheduler's pods are sliced by uid, what
// controllers work on by namespace. The leader of a slice is the first by
// rendezvous (gossip/rendezvous) of the peers that have been seen alive for
// Stable; nobody is asked. A peer that becomes the first takes the slice by
// writing its Record with a higher epoch, and works on it only after that.
//
// What always holds: peers that see the same others choose the same leaders; one
// that comes or goes moves only its own share; the epoch of a slice that a peer
// takes is above every epoch it has seen of that slice. Two peers may lead one
// slice during a split or a hand-over, each for as long as it sees other peers
// than the other, so all work must bear that: see the package docs of sched and
// sched/controllers for why it does.
//
// The daemon's scheduler takes the pods of the slices led there; all controllers are
// led together by who leads the slice of the word "controllers".
package slices
