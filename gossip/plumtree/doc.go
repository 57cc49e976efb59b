// Package plumtree decides who sends what to whom so that a message published
// at one peer reaches all: payloads are pushed along the links of a tree,
// announced on all other links, and asked for where only the announcement
// arrived (Leitão, Pereira and Rodrigues, "Epidemic Broadcast Trees", 2007).
//
// A Tree is pure: it reads no clock, draws nothing at random, starts no
// goroutine and sends nothing. It is driven by calls that carry the time and
// leaves what there is to send and to deliver in its Output, which the caller
// takes after each call. The same calls give the same output.
//
// What always holds: a message is delivered at most once while its id is
// remembered; no payload goes back to where it came from; everything kept is
// bounded by a constant of this package. What does not hold is delivery: a
// peer cut off for longer than the announcements are repeated, or one whose
// payload has left its neighbours' caches, is left to anti-entropy
// (gossip/reconcile).
//
// Beyond the paper, an announcement is repeated until the other end shows that
// it has the message, so that links which lose messages need no other repair.
//
// The caller gives each Tree its links; Neighbours chooses them when every
// peer knows all members. It is called by gossip, one Tree for each peer, and
// by simulators. It is not safe for concurrent use.
package plumtree
