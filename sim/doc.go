// Package sim runs a whole cell in one goroutine, from a seed: real replicas
// of package store and real gossip cores over a clock, a network and disks that
// are fakes and misbehave, in the manner of FoundationDB's simulator and
// TigerBeetle's VOPR.
//
// What always holds: one seed and one set of options give one run, event for
// event; Result.Trace is equal for equal runs. Nothing here reads the machine's
// clock, starts a goroutine, or draws from anything but the seed.
//
// While a run goes on every change of every disk is held against a model of all
// that was ever written (model.go), which knows the rules of merging on its
// own. At its end faults cease, the cell has a stated time to become equal,
// and each answered write must be there or be outdone (check.go).
//
// The tests plant mistakes in the store, through store.Faults, and demand that
// each is found within a stated number of seeds. The package is used by its
// tests and by `make sim`.
package sim
