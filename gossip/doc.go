// Package gossip joins what tells a peer who else is in the cell and what
// carries records between them into one running peer.
//
// Its parts are packages of their own:
//
//   - membership: who is here, who failed, how far away; hashicorp/serf.
//   - stream: authenticated, bounded links that carry frames; TLS 1.3.
//   - plumtree: which record goes to whom along a broadcast tree; pure.
//   - reconcile: what differs where no log covers it, for little traffic; pure.
//   - join: lets a host in, a token against a node certificate; TLS 1.3.
//
// A Core decides everything about records: what to push, with whom to compare,
// what to ask for, when to reconcile by sets or take a snapshot, whom to cut
// off. It is pure: it reads no clock, starts no goroutine and sends nothing,
// and the same calls give the same output, so that a simulator drives thousands
// of them. A Node is the daemon's side: it runs membership and links, drives one
// Core in one goroutine, and lets the store work in others.
//
// What always holds: no byte of state goes to or comes from a peer without a
// certificate of this cell; a peer that lags, floods or sends what is not a
// message loses its own link and delays nobody else; every queue, message and
// wait is bounded by a constant of this package; a dot is claimed only after
// what it stands for was merged.
//
// It is called by the daemon and by sim. It does not decide what a record means
// and does not merge: the store does.
package gossip
