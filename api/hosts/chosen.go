package hosts

import (
	"maps"
	"slices"

	"shoal/gossip/rendezvous"
)

// Chosen reports whether self is the one among the hosts alive that does what
// one of them has to do about something.
func Chosen(self string, alive map[string]bool, what string) bool {
	names := slices.Collect(maps.Keys(alive))
	if !alive[self] {
		names = append(names, self)
	}
	return rendezvous.First(what, names) == self
}
