package netdp

import (
	"fmt"

	"shoal/bpf"
)

// Drops counts, by reason, the packets that the programs of this host dropped
// and the calls they refused since the host started. A daemon that starts anew
// goes on with the same counts, unless its release added reasons.
func (d *Datapath) Drops() (map[string]uint64, error) {
	m := d.maps[bpf.DatapathMapDropCounts]
	out := make(map[string]uint64, m.MaxEntries())
	for reason := uint32(1); reason < m.MaxEntries(); reason++ {
		var perCPU []uint64
		if err := m.Lookup(reason, &perCPU); err != nil {
			return nil, fmt.Errorf("read count of drops: %w", err)
		}
		out[nameOf(d.dropNames, int(reason))] = total(perCPU)
	}
	return out, nil
}

func total(perCPU []uint64) (sum uint64) {
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// ServiceCounts says how often a service of this host was called.
type ServiceCounts struct {
	Key     string // of SetService
	Opened  uint64 // connections, and sockets that began to send datagrams
	Refused uint64 // for want of a backend
}

// ServiceCalls counts the calls of every service since it was set: by sockets
// of this host and its pods, and by other machines through this host.
func (d *Datapath) ServiceCalls() ([]ServiceCounts, error) {
	keys := d.table.keys()
	out := make([]ServiceCounts, 0, len(keys))
	err := readMap(d.maps[bpf.DatapathMapServiceCounts], func(id uint32, c bpf.DatapathServiceCalls) {
		if key := keys[id]; key != "" {
			out = append(out, ServiceCounts{Key: key, Opened: c.Opened, Refused: c.Refused})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read counts of services: %w", err)
	}
	return out, nil
}
