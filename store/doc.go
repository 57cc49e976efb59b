// Package store keeps a peer's copy of the cell's desired state: records that
// merge, on disk in badger, with a log of changes to watch.
//
// What always holds:
//
//   - A write is answered after it was synced to disk; a crash at any moment
//     loses no answered write and leaves no record half-written.
//
//   - Versions grow strictly, also over restarts and clocks that jump back.
//
//   - Watchers see every change once, in version order, and only after it was
//     committed; a read begun after a write was answered sees that write.
//
//   - Memory and history are bounded: the log keeps a window, and whoever asks
//     for something older gets ErrExpired and lists again.
//
//   - A full disk refuses writes with a NoSpaceError; reads go on.
//
//   - What Vector says is held is on disk: records are written before the log
//     that vouches for them. Merging is idempotent and the order of merges does
//     not matter; equal sets of deltas give equal fingerprints.
//
//   - A sequence number of an actor never names two writes; a disk that lost
//     what it had synced goes on as a new actor.
//
//   - Tombstones and divided stamps are given up only once every member has
//     them and no competing write is under way (stability.go). A record whose
//     time is over becomes a tombstone like one that is deleted (expire.go).
//
//   - A peer that joins claims nothing until it has all that one member had.
//
// A Replica decides: versions, stamps, dots, expectations, merges and the
// account of what this peer holds; it is deterministic and reads clock, chance
// and disk through interfaces, so that package sim can drive it. A DB runs one
// on badger: one committer goroutine takes whatever has queued up and commits
// it with a single sync, and reads run beside it on badger's snapshots.
//
// api/storage is the caller for everything the Kubernetes API shows, gossip for
// what other peers send and ask. The package knows nothing of Kubernetes: keys
// are registry paths, values bytes; the schema that field-wise merging needs
// comes in through FieldMerger.
package store
