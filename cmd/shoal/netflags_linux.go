package main

import (
	"fmt"
	"net/netip"
)

// NetFlags are flags of `shoal start` about the network of pods.
type NetFlags struct {
	DNSStub []string `name:"dns-stub" sep:"none" placeholder:"DOMAIN=IP[:PORT],..." help:"Ask these DNS servers for a domain's names in place of the host's; may be given several times."`

	NoMasquerade     bool     `help:"Let pods call the world outside by their own addresses; its routers must know the ways to them."`
	MasqueradeExcept []string `placeholder:"CIDR" help:"Ranges outside the cell that pods call by their own addresses; may be repeated."`

	NetworkDriver string   `enum:"shoal,cni" default:"shoal" env:"SHOAL_NETWORK_DRIVER" help:"What gives new pods of this host their network: shoal, or the CNI plugins of a directory (default ${default})."`
	CNIConfDir    string   `name:"cni-conf-dir" default:"/etc/cni/net.d" env:"SHOAL_CNI_CONF_DIR" placeholder:"DIR" help:"With --network-driver cni, where the network is configured: the first .conflist file counts (default ${default})."`
	CNIBinDir     []string `name:"cni-bin-dir" default:"/opt/cni/bin" env:"SHOAL_CNI_BIN_DIR" placeholder:"DIR,..." help:"With --network-driver cni, where the plugins are (default ${default})."`

	MapLimits map[string]uint32 `mapsep:"," placeholder:"MAP=N,..." help:"How many entries kernel maps take, by the names that metrics have, as in flows=262144; entries are carried over when a start changes it."`

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
