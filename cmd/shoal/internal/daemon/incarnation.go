//go:build linux

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"shoal/gossip/stream"
	"shoal/store"
)

const (
	// tendEvery is how often this host looks whether it still is the member it
	// takes itself for. It reads a handful of records.
	tendEvery = time.Second
	// twinTimeout bounds asking whether another host runs as this one.
	twinTimeout = 2 * time.Second
	// removedText is in the reason that a member taken out is told; it must
	// not change, as older peers say and look for it.
	removedText = "was removed from the cell"
)

// keepMember is Run's: it makes the store's present incarnation the member,
// removes members long gone, and ends the daemon with an error when this host
// is no member any more, or when another host runs as it.
func (p *peer) keepMember(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	absent := absence{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := p.tendMember(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if err := p.forgetLongGone(ctx, absent, time.Now()); err != nil && ctx.Err() == nil {
			p.log.Warn("forget a member that has failed for long; it is tried again", "error", err)
		}
	}
}

// tendMember returns an error only for what ends the daemon.
func (p *peer) tendMember(ctx context.Context) error {
	if p.node.leaving.Load() {
		return nil
	}
	if why := p.node.removed(); why != "" {
		if err := p.part(why); err != nil {
			p.log.Error("note that this host is no member any more", "error", err)
		}
		return errNoMember(&p.identity, p.config.DataDir)
	}
	if err := p.node.register(ctx); errors.As(err, new(*twinError)) {
		return err
	} else if err != nil {
		p.log.Warn("register this host; it is tried again", "error", err)
	}
	return p.keepPeers()
}

// keepPeers notes where members are, for a start without the store.
func (p *peer) keepPeers() error {
	var peers []netip.AddrPort
	for _, m := range membersIn(p.db) {
		if m.Name != p.identity.Name {
			peers = append(peers, m.Gossip)
		}
	}
	slices.SortFunc(peers, netip.AddrPort.Compare)
	p.identityMu.Lock()
	defer p.identityMu.Unlock()
	if slices.Equal(peers, p.identity.Peers) {
		return nil
	}
	p.identity.Peers = peers
	if err := p.identity.save(p.config.DataDir); err != nil {
		p.log.Warn("note where members are", "error", err)
	}
	return nil
}

// removed says why this host is no member any more: by its own store, or by
// what the first peer said that refused it. It is empty for a member.
func (c *cellNode) removed() string {
	if e, _, err := c.o.DB.Get(forgottenKey(c.o.DB.Actor()), store.Latest); err == nil {
		return string(e.Value)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told
}

// refusedBy takes in why a peer ended the link.
func (c *cellNode) refusedBy(peer, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[peer] = refusedLink{reason, time.Now()}
	if strings.Contains(reason, removedText) {
		c.told = "forgotten; " + peer + " says so"
	}
}

// refusals lists why peers have no link with this one, for an error.
func (c *cellNode) refusals() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for peer, r := range c.refused {
		all = append(all, peer+": "+r.reason)
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// twinError says that another host runs as this one.
type twinError struct {
	name    string
	address netip.AddrPort
}

func (e *twinError) Error() string {
	return fmt.Sprintf("another host runs as %s, at %s: this data directory, or that one, is a copy, and two hosts that write as one lose writes; stop one of them for good, empty its data directory and join it under a name of its own (`shoal token create` on a member, then `shoal start --name … --join … --token …`)", e.name, e.address)
}

// twin reports whether a host with this one's name and a certificate for it
// answers at another address.
func (c *cellNode) twin(ctx context.Context, gossip netip.AddrPort) bool {
	if !gossip.IsValid() || gossip.Port() == 65535 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, twinTimeout)
	defer cancel()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.o.CA)
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: c.o.Identity.Name, NextProtos: []string{stream.PeerProtocol},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.o.Certificate.Certificate() },
	}}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(gossip.Addr(), gossip.Port()+1).String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return !isOwn(conn.LocalAddr(), conn.RemoteAddr(), c.o)
}

// isOwn: the connection came back to this very process.
func isOwn(local, remote net.Addr, o gossipOptions) bool {
	l, errL := netip.ParseAddrPort(local.String())
	r, errR := netip.ParseAddrPort(remote.String())
	return errL == nil && errR == nil && l.Addr() == r.Addr() && int(r.Port()) == o.Port+1
}
