package main

import (
	"fmt"
	"net/netip"
)

// NetFlags are flags of `shoal start` about the network of pods.
type NetFlags struct {
	DNSStub []string `name:"dns-stub" sep:"none" placeholder:"DOMAIN=IP[:PORT],..." help:"Ask these DNS servers for a domain's names in place of the host's; may be given several times."`

	NoMasquerade     bool     `help:"Let pods call the world outside by their own addresses; its routers must know the ways to them."`
	MasqueradeExcept []string `placeholder:"CIDR" help:"IPv4 ranges outside the cell that pods call by their own addresses; may be repeated."`
}

func (f *NetFlags) masqueradeExcept() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range f.MasqueradeExcept {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return nil, fmt.Errorf("--masquerade-except %q: want an IPv4 range, as in 192.0.2.0/24", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
