package hosts

import "hash/fnv"

// Chosen reports whether self is the one among the hosts alive that does what
// one of them has to do about something: the one with the highest hash of both
// names (rendezvous hashing, Thaler and Ravishankar 1998). Hosts that agree on
// who is alive agree on it; a host that dies leaves only its own share to others.
func Chosen(self string, alive map[string]bool, what string) bool {
	mine := weight(self, what)
	for name := range alive {
		if name == self {
			continue
		}
		if theirs := weight(name, what); theirs > mine || theirs == mine && name > self {
			return false
		}
	}
	return true
}

func weight(name, what string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(what))
	// FNV's high bits hardly depend on the last bytes; this spreads them (the
	// finalizer of MurmurHash3).
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
