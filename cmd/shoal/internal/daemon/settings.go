//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"shoal/api"
	"shoal/api/joining"
)

// Names of the cell's settings: those of flags, and one that is built in.
const (
	ipv6Setting     = "ipv6"
	podRangeSetting = "pod-range"
)

// said is what this host was told of the cell's settings, by name.
func (c Config) said() map[string]string {
	told := map[string]string{}
	if c.IPv6 != "" {
		told[ipv6Setting] = c.IPv6
	}
	return told
}

// settle agrees with the cell on what all its hosts must have alike. It takes the
// cell's records, so a host that joins has them by then.
func (p *peer) settle(ctx context.Context) error {
	settings := joining.Settings{Records: api.CellRecords(p.db)}
	pods, err := settings.Settle(ctx, podRangeSetting, "", api.PodRange.String(), false)
	if err != nil {
		return err
	}
	if pods != api.PodRange.String() {
		return fmt.Errorf("the cell's pods are in %s, this shoal's in %s; install the cell's version here", pods, api.PodRange)
	}
	p.ipv6, err = p.ipv6Range(ctx, p.config.said()[ipv6Setting], p.alone())
	return err
}

// ipv6Range is the cell's range of IPv6, not valid when it has none.
func (p *peer) ipv6Range(ctx context.Context, said string, alone bool) (netip.Prefix, error) {
	own, err := p.ownIPv6()
	if err != nil {
		return netip.Prefix{}, err
	}
	text, err := joining.Settings{Records: api.CellRecords(p.db)}.Settle(ctx, ipv6Setting, said, own, alone)
	if err != nil || text == ipv6Off {
		return netip.Prefix{}, err
	}
	cell, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read the cell's IPv6 range: %w", err)
	}
	return cell, nil
}
