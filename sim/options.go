package sim

import (
	"time"

	"shoal/store"
)

// Driver is what moves records between peers in a run.
type Driver int

// The drivers.
const (
	// Simple compares vectors with random peers and sends what is missing: the
	// store alone, several times as many seeds a minute.
	Simple Driver = iota
	// Gossip is gossip.Core.
	Gossip
)

// Options says what a run is made of. Zero values take the defaults.
type Options struct {
	Driver Driver
	Peers  int
	// Writes is about how many operations the clients do, in Duration.
	Writes   int
	Duration time.Duration
	// Settle is how long the cell may take to become equal once all faults
	// have ceased and what was held back is due.
	Settle time.Duration
	// HotKeys are written by all clients, ColdKeys now and then.
	HotKeys, ColdKeys int
	// LogDots is how many dots a replica logs; a peer further behind
	// reconciles sets.
	LogDots int
	// OwnSpans of its own make a peer a new actor when it is opened.
	OwnSpans int
	// Fields merges single fields.
	Fields bool
	// Calm leaves out all faults; Lying adds disks that lose what was synced.
	Calm, Lying bool
	// Poison sends records that no peer wrote.
	Poison bool
	// Reckless gives snapshots to peers that nobody knows yet.
	Reckless bool
	// Faults are mistakes to plant.
	Faults Faults
	// Verbose keeps all of the trace instead of its end.
	Verbose bool
}

func (o *Options) complete() {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.Peers, 5)
	set(&o.Writes, 400)
	set(&o.HotKeys, 8)
	set(&o.ColdKeys, 200)
	set(&o.LogDots, 1<<16)
	if o.Duration == 0 {
		o.Duration = 30 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = 60 * time.Second
	}
}

// Faults are the store's.
type Faults = store.Faults

// Vary returns options that differ from seed to seed, so that few seeds see
// much: small and large logs, poison, disks that lie, a calm cell.
func Vary(seed uint64) Options {
	o := Options{Peers: 3 + int(seed%4)}
	if seed%3 == 0 {
		o.LogDots = 40
	}
	if seed%4 == 1 {
		o.OwnSpans = 3
	}
	o.Fields = seed%2 == 0
	o.Poison = seed%5 == 0
	o.Lying = seed%7 == 0
	o.Calm = seed%11 == 0
	return o
}
