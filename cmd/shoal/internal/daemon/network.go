//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"shoal/api"
	v1 "shoal/api/control/v1"
	"shoal/netdp"
	"shoal/netdp/cni"
	"shoal/netdp/driver"
)

// Network drivers of `shoal start --network-driver`.
const (
	NetworkDriverShoal = "shoal"
	NetworkDriverCNI   = "cni"
)

// Where CNI plugins and their networks are on every host that has any.
const (
	DefaultCNIConfDir = "/etc/cni/net.d"
	DefaultCNIBinDir  = "/opt/cni/bin"
)

// completeNetwork fills in defaults of the network driver.
func (c *Config) completeNetwork() (err error) {
	c.NetworkDriver = orDefault(c.NetworkDriver, NetworkDriverShoal)
	if c.NetworkDriver != NetworkDriverShoal && c.NetworkDriver != NetworkDriverCNI {
		return fmt.Errorf("--network-driver %q: want %s or %s", c.NetworkDriver, NetworkDriverShoal, NetworkDriverCNI)
	}
	if c.CNIConfDir, err = filepath.Abs(orDefault(c.CNIConfDir, DefaultCNIConfDir)); err != nil {
		return fmt.Errorf("resolve --cni-conf-dir: %w", err)
	}
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{DefaultCNIBinDir}
	}
	for i := range c.CNIBinDirs {
		if c.CNIBinDirs[i], err = filepath.Abs(c.CNIBinDirs[i]); err != nil {
			return fmt.Errorf("resolve --cni-bin-dir: %w", err)
		}
	}
	return nil
}

// openCNI is done on every host: pods of an earlier start may have their network
// from plugins.
func (p *peer) openCNI() (err error) {
	o := cni.Options{
		ConfDir: p.config.CNIConfDir, BinDirs: p.config.CNIBinDirs,
		StateDir: filepath.Join(p.config.DataDir, "cni"),
		NetNSDir: filepath.Join(runDir(p.config), "cni"),
		// Plugins run when the datapath is there.
		Service: func(addr netip.Addr) string { return p.datapath.ServiceAt(addr) },
		Logger:  p.log.With("part", "cni"),
	}
	o.PodCIDRs = append(o.PodCIDRs, p.podCIDR)
	if six := p.podCIDR6(); six.IsValid() {
		o.PodCIDRs = append(o.PodCIDRs, six)
	}
	p.cni, err = cni.Open(o)
	return err
}

// routedPods are those whose network plugins made for an earlier daemon.
func (p *peer) routedPods() []netdp.RoutedPod {
	var out []netdp.RoutedPod
	for _, n := range p.cni.Networks() {
		out = append(out, netdp.RoutedPod{UID: n.UID, NetNS: n.NetNS, Addresses: n.Addresses})
	}
	return out
}

// checkDriver refuses a start on another driver than the one that running pods have
// their network from. Beside each other, both kinds could be given one address, and
// pods on a bridge would look for the others on its link.
func (p *peer) checkDriver(ctx context.Context) error {
	had, n := NetworkDriverCNI, len(p.cni.Networks())
	if p.config.NetworkDriver == NetworkDriverCNI {
		own, err := p.datapath.Attached(ctx)
		if err != nil {
			return err
		}
		had, n = NetworkDriverShoal, len(own)
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("--network-driver %s: %d pods of this host run with a network of driver %s, which a pod keeps until it ends; drain the host, or end its pods by `shoal stop --pods`, and start again (or start with --network-driver %s)",
		p.config.NetworkDriver, n, had, had)
}

// PluginLinks are interfaces that CNI plugins left on a host whose pods have shoal's
// own network.
func PluginLinks(more ...netip.Prefix) ([]cni.Link, error) {
	return cni.Options{}.LinksWithin(append(more, api.PodRange)...)
}

// warnOfLinks tells of them once. They are not shoal's to take away.
func (p *peer) warnOfLinks() {
	if p.config.NetworkDriver != NetworkDriverShoal {
		return
	}
	links, err := PluginLinks(p.podCIDR6())
	if err != nil {
		p.log.Warn("whether CNI plugins left interfaces is not known", "error", err)
	}
	for _, link := range links {
		p.log.Warn("an interface that shoal did not make has an address of pods, and takes packets for them that nothing else does; a CNI plugin may have left it",
			"interface", link.Name, "address", link.Address, "fix", "ip link delete "+link.Name)
	}
}

// networkDriver is what gives pods their network.
func (p *peer) networkDriver() driver.Driver {
	own, plugins := driver.Builtin{Datapath: p.datapath}, driver.Routed{Driver: p.cni, Routes: p.datapath}
	if p.config.NetworkDriver == NetworkDriverCNI {
		return driver.Chosen{Driver: plugins, Others: []driver.Driver{own}}
	}
	return driver.Chosen{Driver: own, Others: []driver.Driver{plugins}}
}

// networkReady says what keeps pods of this host from getting a network.
func (p *peer) networkReady(ctx context.Context) error {
	if p.config.NetworkDriver != NetworkDriverCNI {
		return nil
	}
	err := p.cni.Ready(ctx)
	if ctx.Err() == nil {
		p.noNetwork.Store(&err)
	}
	return err
}

// networkAlarm is what networkReady last found to be wrong.
func (p *peer) networkAlarm() []v1.Alarm {
	if err := p.noNetwork.Load(); err != nil && *err != nil {
		return []v1.Alarm{{
			Code: "network-plugins", Severity: v1.Critical,
			Title: fmt.Sprintf("pods of %s get no network: %v", p.config.Name, *err),
			Fix:   "shoal doctor, on that host; what is put there is found within seconds",
		}}
	}
	return nil
}

// collectNetwork has CNI plugins drop what an earlier installation left with them.
func (p *peer) collectNetwork(ctx context.Context) {
	if p.config.NetworkDriver != NetworkDriverCNI {
		return
	}
	if err := p.cni.Collect(ctx); err != nil && ctx.Err() == nil {
		p.log.Warn("what CNI plugins keep of pods that are gone could not be collected", "part", "cni", "error", err)
	}
}

// removeNetwork takes away what all pods share of their network, when they are gone.
func (p *peer) removeNetwork() error {
	if err := errors.Join(p.cni.Remove(), p.datapath.Remove()); err != nil {
		return fmt.Errorf("remove network: %w", err)
	}
	return nil
}
