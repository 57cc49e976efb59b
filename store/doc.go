// Package store keeps a peer's copy of the cell's desired state: records that
// merge, on disk in badger, with a log of changes to watch.
//
// What always holds:
//   - A write is answered after it was synced to disk; a crash at any moment
//     loses no answered write and leaves no record half-written.
//   - Versions grow strictly, also over restarts and clocks that jump back.
//   - Watchers see every change once, in version order, and only after it was
//     committed; a read begun after a write was answered sees that write.
//   - Memory and history are bounded: the log keeps a window, and whoever asks
//     for something older gets ErrExpired and lists again.
//   - A full disk refuses writes with a NoSpaceError; reads go on.
//
// One committer goroutine per database gives out versions, checks each write's
// expectation and commits whatever has queued up with a single sync. Reads run
// beside it on badger's snapshots.
//
// api/storage is the caller for everything the Kubernetes API shows. The
// package knows nothing of Kubernetes: keys are registry paths, values bytes.
// Carrying records between peers is gossip's work; which fields an object has
// is asked of a FieldMerger, which api/fields is.
package store
