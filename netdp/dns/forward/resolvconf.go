package forward

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// lookEvery is how often resolv.conf is looked at, while questions come.
	lookEvery = time.Second
	dnsPort   = 53
)

// resolvConf is the host's servers, read again when the file changes.
type resolvConf struct {
	path string
	own  func(netip.Addr) bool
	log  *slog.Logger

	mu      sync.Mutex // guards all below
	looked  time.Time
	changed time.Time // of the file
	size    int64
	servers []netip.AddrPort
}

func (r *resolvConf) get(now time.Time) []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.looked) < lookEvery {
		return r.servers
	}
	r.looked = now
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		r.servers, r.changed = nil, time.Time{}
		return nil
	}
	if err != nil || info.ModTime().Equal(r.changed) && info.Size() == r.size {
		return r.servers
	}
	config, err := dns.ClientConfigFromFile(r.path)
	if err != nil {
		r.log.Warn("resolver configuration cannot be read; the servers of before are asked", "file", r.path, "error", err)
		return r.servers
	}
	r.changed, r.size = info.ModTime(), info.Size()
	was := r.servers
	r.servers = r.usable(config.Servers)
	if !slices.Equal(was, r.servers) {
		r.log.Info("upstream DNS servers", "file", r.path, "servers", r.servers)
	}
	return r.servers
}

// usable leaves out ourselves and what is no address.
func (r *resolvConf) usable(texts []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || r.own(addr.Unmap()) {
			r.log.Warn("a server of the resolver configuration is not asked: it is this host's own cluster DNS, or no address", "file", r.path, "server", text)
			continue
		}
		out = append(out, netip.AddrPortFrom(addr.Unmap(), dnsPort))
	}
	return out
}
