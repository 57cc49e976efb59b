// Package stream carries framed messages between the peers of one cell, over
// mutually authenticated TLS 1.3.
//
// What always holds: no byte of a message goes to or comes from a peer without
// a node certificate of this cell's authority; the version spoken is one that
// both ends named, never guessed; a frame is at most MaxFrameBytes; what waits
// to be sent on a link is bounded. Send never blocks: a peer that takes frames
// in more slowly than they are made loses all that waits for it, its link says
// so (ErrOverflow), and anti-entropy must bring it up to date. No link waits
// for another.
//
// Time and network come in through Clock and Transport: TCP for daemons, Memory
// for tests and simulators.
//
// It is called by gossip. It does not know what frames mean, does not choose
// with whom to keep links and does not dial again.
package stream
