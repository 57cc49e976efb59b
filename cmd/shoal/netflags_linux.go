package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"shoal/cmd/shoal/internal/daemon"
	"shoal/netdp"
)

// NetFlags are flags of `shoal start` about the network of pods.
type NetFlags struct {
	DNSStub []string `name:"dns-stub" sep:"none" placeholder:"DOMAIN=IP[:PORT],..." help:"Ask these DNS servers for a domain's names in place of the host's; may be given several times."`

	NoMasquerade     bool     `help:"Let pods call the world outside by their own addresses; its routers must know the ways to them."`
	MasqueradeExcept []string `placeholder:"CIDR" help:"Ranges outside the cell that pods call by their own addresses; may be repeated."`

	NetworkDriver string   `enum:"shoal,cni" default:"shoal" env:"SHOAL_NETWORK_DRIVER" help:"What gives new pods of this host their network: shoal, or the CNI plugins of a directory (default ${default})."`
	CNIConfDir    string   `name:"cni-conf-dir" env:"SHOAL_CNI_CONF_DIR" placeholder:"DIR" help:"With --network-driver cni, where the network is configured: the first .conflist file counts (default: /etc/cni/net.d)."`
	CNIBinDir     []string `name:"cni-bin-dir" env:"SHOAL_CNI_BIN_DIR" placeholder:"DIR,..." help:"With --network-driver cni, where the plugins are (default: /opt/cni/bin)."`

	MapLimits map[string]string `mapsep:"," placeholder:"MAP=N,..." help:"How many entries kernel maps take, by the names that metrics have, as in flows=262144; entries are carried over when a start changes it."`

	IPv6 string `name:"ipv6" placeholder:"RANGE" help:"The cell's /48 of IPv6 addresses for pods and services, or off; hosts that join take the cell's (default: unique local addresses of the cell's own)."`

	Encrypt *bool `negatable:"" help:"Encrypt what pods of different hosts say to each other, with WireGuard. The first host of a cell chooses; others do as the cell does, and a cell of several is switched by shoal encryption (default: off)."`
}

func (f *NetFlags) masqueradeExcept() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range f.MasqueradeExcept {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("--masquerade-except %q: want a range, as in 192.0.2.0/24 or 2001:db8:7::/48", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// checkDriver refuses what the chosen driver would not look at.
func (f *NetFlags) checkDriver() error {
	if f.NetworkDriver != daemon.NetworkDriverCNI && (f.CNIConfDir != "" || len(f.CNIBinDir) > 0) {
		return errors.New("--cni-conf-dir and --cni-bin-dir (or $SHOAL_CNI_CONF_DIR, $SHOAL_CNI_BIN_DIR) are read with --network-driver cni only: give that too, or leave them out")
	}
	return nil
}

func (f *NetFlags) mapLimits() (map[string]uint32, error) {
	var out map[string]uint32
	for _, name := range slices.Sorted(maps.Keys(f.MapLimits)) {
		n, err := strconv.ParseUint(f.MapLimits[name], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--map-limits: limit of map %s: %q is not a number of entries; want MAP=N, as in flows=262144", name, f.MapLimits[name])
		}
		if out == nil {
			out = make(map[string]uint32)
		}
		out[name] = uint32(n)
	}
	if err := netdp.CheckLimits(out); err != nil {
		return nil, fmt.Errorf("--map-limits: %w", err)
	}
	return out, nil
}
