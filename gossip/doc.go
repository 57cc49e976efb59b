// Package gossip is the home of what tells a peer who else is in the cell and
// carries records between them. Its parts are packages of their own:
//
//   - membership: who is here, who failed, how far away; hashicorp/serf.
//   - stream: authenticated, bounded links that carry frames; TLS 1.3.
//   - plumtree: which record goes to whom along a broadcast tree; pure.
//   - reconcile: what one peer lacks of another, for little traffic; pure.
//   - join: lets a host in, a token against a node certificate; TLS 1.3.
//
// Each is complete and tested by itself, on memory, loopback or simulated time.
//
// Not there yet: the node that joins the four into one running peer over a
// replica of the store (publishing, rounds of anti-entropy, a snapshot for a
// joiner, counters), its limits on what a peer of the cell may send, and a
// watch on the links it keeps. The daemon uses join only, and the store cannot
// yet say which deltas it holds by actor and sequence, which plumtree.ID and
// reconcile.Vector rest on.
package gossip
