// Package storage is the Kubernetes API server's storage on package store: one
// Storage per resource, which encodes objects, keeps the promises of
// k8s.io/apiserver/pkg/storage.Interface and knows nothing of HTTP.
//
// What always holds:
//   - A resourceVersion is a store.Version; an object's is the version of the
//     write that made it, a list's the one it was read at.
//   - A version that another peer of the cell issued (its tag says so) has no
//     history here: watches from it and exact lists of it are 410 Expired. Reads
//     not older than it wait until what its issuer had has come; as a condition
//     it holds if its issuer says that it stands for the very record we have.
//   - Writes are optimistic: read, change, commit if unchanged, else again.
//   - A watch sends every change after its start once and in order; the set
//     that a watch-list begins with ends with the annotated bookmark. Whoever
//     asks for history no longer kept gets 410 Expired.
//   - Objects handed out are the caller's own; nothing decoded is shared.
//
// The upstream suite, k8s.io/apiserver/pkg/storage/testing, runs against it in
// full: no test of it is inapplicable. Four of its tests (RunTestList,
// RunTestConsistentList, RunTestCompactRevision, RunWatchSemantics) reckon with
// versions that count up by one from 1, as etcd's do; they run on a database
// that issues such versions, and all others also on one that issues a peer's.
//
// The generic registry calls it, by way of Decorator, once per resource; there
// is no watch cache in between. It neither validates nor admits anything.
package storage
