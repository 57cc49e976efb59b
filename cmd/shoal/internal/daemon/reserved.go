//go:build linux

package daemon

import (
	"net"
	"path/filepath"
	"slices"
	"strconv"

	"shoal/netdp"
	netservices "shoal/netdp/services"
)

// reservedPorts are those at which the daemons of the cell hear each other. This
// host's flags stand for those of all. api is where this one serves the API.
func (c Config) reservedPorts(api net.Addr) []netservices.Reserved {
	const tunnel = true
	var out []netservices.Reserved
	add := func(what string, port int, tunnel bool, protos ...netdp.Proto) {
		if port <= 0 || port > 65535 {
			return
		}
		for _, proto := range protos {
			out = append(out, netservices.Reserved{Proto: proto, Port: uint16(port), What: what, Tunnel: tunnel})
		}
	}
	add("API", portOf(api), !tunnel, netdp.TCP)
	add("agent", c.AgentPort, !tunnel, netdp.TCP)
	add("gossip", c.GossipPort, !tunnel, netdp.TCP, netdp.UDP)
	add("records and joins", c.GossipPort+1, !tunnel, netdp.TCP, netdp.UDP)
	add("tunnel", netdp.DefaultVXLANPort, tunnel, netdp.UDP)
	add("encryption", netdp.DefaultWireGuardPort, tunnel, netdp.UDP)
	return out
}

func portOf(addr net.Addr) int {
	if addr == nil {
		return 0
	}
	_, text, err := net.SplitHostPort(addr.String())
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return port
}

// freePorts has the programs of an earlier daemon leave these ports to this one.
func (c Config) freePorts() error {
	api, err := net.ResolveTCPAddr("tcp", c.APIAddr)
	if err != nil {
		return nil // listening tells
	}
	ports := c.reservedPorts(api)
	return netdp.FreePorts(filepath.Join(runDir(c), "bpf"), func(proto netdp.Proto, port uint16) bool {
		return slices.ContainsFunc(ports, func(r netservices.Reserved) bool { return r.Proto == proto && r.Port == port })
	})
}
