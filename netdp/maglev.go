package netdp

import (
	"errors"
	"hash/fnv"
	"slices"

	"shoal/bpf"
)

// maglevState is the table of one service as the kernel has it.
type maglevState struct {
	size     uint32
	backends []uint32 // the active ones, in order of address
}

// maglevSizes are primes, as the algorithm needs. A table of at least a hundred
// entries for each backend moves at most 1% of the flows more than it must
// (Eisenbud et al., "Maglev", NSDI 2016, section 5.3). The size depends on the
// number of backends alone, so that all hosts choose the same.
var maglevSizes = [...]uint32{251, 1021, 4093, 16381}

const maglevEntriesPerBackend = 100

func maglevSize(backends int) uint32 {
	for _, size := range maglevSizes {
		if int(size) >= backends*maglevEntriesPerBackend {
			return size
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// maglevTable fills a table with indexes into identities. It depends on the
// set of identities, the seed and the size, not on their order in time.
func maglevTable(identities []string, seed, size uint32) []int {
	type permutation struct{ offset, skip, next uint32 }
	perms := make([]permutation, len(identities))
	for i, name := range identities {
		perms[i] = permutation{
			offset: maglevHash(name, seed, 0) % size,
			skip:   maglevHash(name, seed, 1)%(size-1) + 1,
		}
	}
	table := make([]int, size)
	for i := range table {
		table[i] = -1
	}
	for filled := uint32(0); filled < size; {
		for i := range perms {
			p := &perms[i]
			slot := (p.offset + p.next*p.skip) % size
			for table[slot] >= 0 {
				p.next++
				slot = (p.offset + p.next*p.skip) % size
			}
			table[slot] = i
			p.next++
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

func maglevHash(name string, seed uint32, which byte) uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), which})
	_, _ = h.Write([]byte(name))
	sum := h.Sum64()
	// FNV leaves its low bits weak; fold the high ones in.
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	return uint32(sum >> 32)
}

// setMaglev writes the table anew when its backends have changed. A reader that
// meets chunks of both tables still finds a backend in each entry.
func (t *table) setMaglev(live *liveService, s Service) error {
	outside := slices.ContainsFunc(s.Frontends, Frontend.outside)
	var identities []string
	var active []uint32
	for _, m := range live.members {
		if m.state&backendOutside != 0 {
			identities = append(identities, m.addr.String())
			active = append(active, m.id)
		}
	}
	if !outside || len(active) == 0 {
		return t.dropMaglev(live)
	}
	if slices.Equal(active, live.maglev.backends) {
		return nil
	}
	size := maglevSize(len(active))
	was := live.maglev
	if err := t.writeChunks(live.id, size, maglevTable(identities, t.maglevSeed, size), active); err != nil {
		// What is beyond the table in use is room for others.
		return errors.Join(err, t.deleteChunks(live, chunksOf(was.size), chunksOf(size)))
	}
	live.maglev = maglevState{size: size, backends: active}
	if was.size == size {
		return nil
	}
	if err := t.publish(live); err != nil {
		return err
	}
	return t.deleteChunks(live, chunksOf(size), chunksOf(was.size))
}

func chunksOf(size uint32) uint32 { return (size + uint32(maglevChunk) - 1) / uint32(maglevChunk) }

func (t *table) writeChunks(service, size uint32, table []int, active []uint32) error {
	keys := make([]bpf.DatapathMaglevKey, chunksOf(size))
	values := make([]bpf.DatapathMaglevChunk, len(keys))
	for i := range keys {
		keys[i] = bpf.DatapathMaglevKey{Service: service, Chunk: uint32(i)}
	}
	for i, b := range table {
		values[i/maglevChunk].Backend[i%maglevChunk] = active[b]
	}
	return t.maps.putMaglev(keys, values)
}

func (t *table) dropMaglev(live *liveService) error {
	if live.maglev.size == 0 {
		return nil
	}
	n := chunksOf(live.maglev.size)
	live.maglev = maglevState{}
	if err := t.publish(live); err != nil {
		return err
	}
	return t.deleteChunks(live, 0, n)
}

func (t *table) deleteChunks(live *liveService, from, to uint32) error {
	for i := from; i < to; i++ {
		if err := t.maps.deleteMaglev(bpf.DatapathMaglevKey{Service: live.id, Chunk: i}); err != nil {
			return err
		}
	}
	return nil
}
