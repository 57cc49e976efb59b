// Package membership says which peers are in the cell, which of them answer,
// and how far apart they are. It wraps hashicorp/serf.
//
// What always holds: every packet is encrypted with a key of the cell's ring,
// and a peer without one is not heard; no state of the cell travels in serf's
// events, only who is here and a few tags; a member that failed or left and is
// said to be back is reported only after it answered this peer's own probe; the
// consumer sees for each member joined and gone in turn, and what it does not
// take in time is told by Members, which is always current.
//
// It is called by gossip. It does not carry records and does not decide what a
// failed peer means.
package membership
