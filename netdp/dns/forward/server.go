package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"shoal/netdp/dns/wire"
)

const (
	// askTimeout bounds a question over all tries: less than the 5 s after which
	// most resolvers ask again.
	askTimeout = 4500 * time.Millisecond
	// tryTimeout bounds one try.
	tryTimeout = 1500 * time.Millisecond
	// maxTries over all servers, resolv.conf's own limit of servers.
	maxTries = 3
	// avoidFor is how long a server that did not answer is asked last.
	avoidFor = 10 * time.Second
)

// ErrNoServer means that there is nobody to ask.
var ErrNoServer = errors.New("no upstream server: the host's /etc/resolv.conf names none that can be asked")

// ask asks servers in their order, those that failed lately last, until one
// knows.
func (f *Forwarder) ask(ctx context.Context, q Question, servers []netip.AddrPort) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, ErrNoServer
	}
	name, err := wire.Text([]byte(q.Name))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	servers = f.health.sorted(servers, f.now())
	var last *dns.Msg
	for try := range max(min(len(servers), maxTries), 2) {
		server := servers[try%len(servers)]
		m, err2 := f.try(ctx, q, name, server)
		f.health.note(server, err2 == nil, f.now())
		if err2 != nil {
			err = err2
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
			return m, nil
		}
		if last = m; len(servers) == 1 {
			break // it would say the same again
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// try asks one server once, over TCP where the answer needs it.
func (f *Forwarder) try(ctx context.Context, q Question, name string, server netip.AddrPort) (*dns.Msg, error) {
	m := &dns.Msg{}
	m.SetQuestion(name, q.Type)
	m.CheckingDisabled = q.NoCheck
	m.SetEdns0(wire.MaxUDP, q.DNSSEC)
	for _, network := range []string{"udp", "tcp"} {
		m.Id = dns.Id()
		client := dns.Client{Net: network, Timeout: tryTimeout, UDPSize: wire.MaxUDP}
		f.metrics.Forwards.WithLabelValues(network).Inc()
		r, _, err := client.ExchangeContext(ctx, m, server.String())
		if err != nil && !(network == "udp" && r != nil && r.Truncated) {
			return nil, fmt.Errorf("ask %s over %s: %w", server, network, err)
		}
		if !isAnswer(r, m) {
			return nil, fmt.Errorf("ask %s over %s: what came is no answer to the question", server, network)
		}
		if !r.Truncated {
			return r, nil
		}
	}
	return nil, fmt.Errorf("ask %s: the answer is cut off over TCP too", server)
}

func isAnswer(r, m *dns.Msg) bool {
	return r.Response && len(r.Question) == 1 && r.Question[0].Qtype == m.Question[0].Qtype &&
		r.Question[0].Qclass == m.Question[0].Qclass && strings.EqualFold(r.Question[0].Name, m.Question[0].Name)
}
