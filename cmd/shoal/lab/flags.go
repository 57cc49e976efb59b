//go:build linux

package lab

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// ownFlags are what a peer's daemon is started with in any lab.
func (l *Lab) ownFlags(p *peer) []string {
	return []string{
		"--name", p.Name, "--data-dir", dataDir, "--node-ip", p.Address.String(),
		"--api-addr", p.Address.String() + ":" + apiPort,
		"--containerd-namespace", p.Name,
		"--device-plugin-dir", filepath.Join(dataDir, "device-plugins"),
		// Peers share one machine, whose memory and disk are not theirs to judge.
		"--eviction-hard", "none",
		"--cgroup-root", filepath.Join(l.groups.unified, l.peerGroup(p.Number)),
	}
}

// fixed are flags by which the lab, and other peers, find a peer again.
var fixed = []string{
	"--name", "--data-dir", "--node-ip", "--api-addr", "--containerd-namespace", "--cgroup-root",
	"--gossip-port", "--detach",
}

// checkFlags refuses what is no flag, and what would be taken from the lab.
func checkFlags(flags []string) error {
	for _, flag := range flags {
		name, _, _ := strings.Cut(flag, "=")
		switch {
		case !strings.HasPrefix(name, "--") || name == "--":
			return fmt.Errorf("--start-flag %q: want a flag of `shoal start` with its value, as in --start-flag=--pod-max-pids=500", flag)
		case slices.Contains(fixed, name):
			return fmt.Errorf("--start-flag %s: a lab gives each peer a %s of its own", flag, name)
		}
	}
	return nil
}
