package sim

import (
	"fmt"
	"math"

	"shoal/store"
	"shoal/store/vector"
)

// poison gives a random peer something that no peer of ours would send.
func (r *run) poison() {
	p := r.someUp()
	if p == nil || r.loop.now > r.o.Duration {
		return
	}
	random := r.random
	stamps := []store.HLC{0, 1, math.MaxUint64, math.MaxUint64 >> 1, 1 << 62}
	lengths := []uint64{1, 2, math.MaxUint64, math.MaxUint64 - 1, 1 << 63, 1 << 50}
	at := store.Stamp{Time: stamps[random.IntN(len(stamps))], Actor: store.Actor(random.Uint64() | 1)}
	d := store.Delta{
		Key: fmt.Sprintf("%s%d", poisonPrefix, random.IntN(10)),
		Dot: store.Dot{Actor: at.Actor, Sequence: 1 + random.Uint64N(3)},
		Record: store.Record{
			UID: "poison", CausalLength: lengths[random.IntN(len(lengths))], Stamps: []store.Stamp{at},
		},
	}
	if d.Record.Live() {
		d.Record.Born = at
		d.Record.Value = []byte("this is no object")
	}
	switch random.IntN(4) {
	case 0:
		// Without a dot nobody else would come to have it: it must be refused.
		d.Dot, d.Record.Stamps[0].Time = store.Dot{}, math.MaxUint64
	case 1:
		// Apart, as what ends by itself may take along what it was merged with.
		d.Key += "-ends"
		d.Record.ExpiresMicros = random.Uint64()
	case 2:
		if random.IntN(4) == 0 {
			d = store.Delta{Dot: d.Dot}
		}
	}
	wire := store.AppendDelta(nil, &d)
	if random.IntN(3) == 0 {
		wire[random.IntN(len(wire))] ^= byte(1 + random.IntN(255))
	}
	decoded, err := store.DecodeDelta(wire)
	if err != nil || len(decoded.Dots()) == 0 && decoded.Record.Stamp().Time < 1<<62 || decoded.Key != "" && ours(decoded.Key) {
		return
	}
	// A birth below the floor is what peers rely on not to happen: where others
	// still have the tombstone that it would have to come after, they differ.
	if decoded.Record.Live() && decoded.Record.CausalLength <= p.replica.Floor() {
		return
	}
	r.trace.note("", r.loop.now, "%s is given poison: %+v", p.name, decoded)
	p.tolerate(p.replica.Merge([]store.Delta{decoded}))
	p.settle()
	_ = vector.Vector{}
}
