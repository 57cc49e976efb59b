// Package flows serves what a host's datapath tells: which connections are
// opened and closed, which packets are dropped and why, with the names of pods
// and nodes put to the addresses.
//
// What always holds: a reader costs nothing while there is none; one that is
// too slow loses records, is told how many, and holds up nobody else; one that
// takes nothing at all for a while is cut off.
//
// The daemon makes one Server and has the agent serve it. It authenticates
// nobody: the agent does.
package flows
