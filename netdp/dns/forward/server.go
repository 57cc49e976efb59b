package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"shoal/netdp/dns/wire"
)

const (
	// askTimeout bounds a question over all tries: less than the 5 s after which
	// most resolvers ask again or give up, so that they hear of it.
	askTimeout = 3 * time.Second
	// staleAfter is that of a question whose old answer is kept (RFC 8767, section
	// 5: the client response timer).
	staleAfter = 1800 * time.Millisecond
	// nextAfter is how long a server that is silent is waited for before another is
	// asked too, and againAfter before it is asked once more.
	nextAfter  = 500 * time.Millisecond
	againAfter = time.Second
	// maxTries over all servers, resolv.conf's own limit of servers.
	maxTries = 3
	// avoidFor is how long a server that did not answer is asked last.
	avoidFor = 10 * time.Second
)

// ErrNoServer means that there is nobody to ask.
var ErrNoServer = errors.New("no upstream server: the host's /etc/resolv.conf names none that can be asked")

// reply is what became of one try.
type reply struct {
	server netip.AddrPort
	m      *dns.Msg
	err    error
}

// ask asks servers in their order, those that failed lately last, until one knows.
// One that is silent is not given up when the next is asked; whoever answers first
// counts. It returns after all tries have.
func (f *Forwarder) ask(ctx context.Context, q Question, servers []netip.AddrPort) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, ErrNoServer
	}
	name, err := wire.Text([]byte(q.Name))
	if err != nil {
		return nil, err
	}
	servers = f.health.sorted(servers, f.now())
	tries := max(min(len(servers), maxTries), 2)
	wait := nextAfter
	if len(servers) == 1 {
		wait = againAfter
	}
	replies, asked, left := make(chan reply, tries), map[netip.AddrPort]time.Time{}, 0
	ctx, cancel := context.WithCancel(ctx)
	var children sync.WaitGroup
	defer children.Wait()
	defer cancel()
	next := time.NewTimer(0)
	defer next.Stop()
	var last *dns.Msg
	for begun := 0; ; {
		select {
		case <-next.C:
			server := servers[begun%len(servers)]
			if _, again := asked[server]; !again {
				asked[server] = f.now()
			}
			begun++
			left++
			children.Go(func() {
				m, err := f.try(ctx, q, name, server)
				replies <- reply{server, m, err}
			})
			if begun < tries {
				next.Reset(wait)
			}
			continue
		case r := <-replies:
			left--
			f.health.note(r.server, r.err == nil, f.now())
			switch {
			case r.err != nil:
				err = r.err
			case r.m.Rcode == dns.RcodeSuccess || r.m.Rcode == dns.RcodeNameError:
				delete(asked, r.server)
				f.noteSilent(asked)
				return r.m, nil
			default:
				last = r.m
				delete(asked, r.server)
			}
			// A single server would say the same again.
			if len(servers) == 1 && last != nil || begun == tries && left == 0 || ctx.Err() != nil {
				break
			}
			if begun < tries {
				next.Reset(0)
			}
			continue
		}
		f.noteSilent(asked)
		if last != nil {
			return last, nil
		}
		return nil, err
	}
}

// noteSilent has servers that were asked long before another one answered asked last.
func (f *Forwarder) noteSilent(asked map[netip.AddrPort]time.Time) {
	now := f.now()
	for server, since := range asked {
		if now.Sub(since) >= nextAfter {
			f.health.note(server, false, now)
		}
	}
}

// try asks one server once, over TCP where the answer needs it.
func (f *Forwarder) try(ctx context.Context, q Question, name string, server netip.AddrPort) (*dns.Msg, error) {
	m := &dns.Msg{}
	m.SetQuestion(name, q.Type)
	m.CheckingDisabled = q.NoCheck
	m.SetEdns0(wire.MaxUDP, q.DNSSEC)
	for _, network := range []string{"udp", "tcp"} {
		f.metrics.Forwards.WithLabelValues(network).Inc()
		r, err := exchange(ctx, m, network, server)
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

// exchange sends m to a server with an id of its own, and ends with ctx.
func exchange(ctx context.Context, m *dns.Msg, network string, server netip.AddrPort) (*dns.Msg, error) {
	m.Id = dns.Id()
	client := dns.Client{Net: network, Timeout: askTimeout, UDPSize: wire.MaxUDP}
	conn, err := client.DialContext(ctx, server.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	r, _, err := client.ExchangeWithConn(m, conn)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return r, err
}

func isAnswer(r, m *dns.Msg) bool {
	return r.Response && len(r.Question) == 1 && r.Question[0].Qtype == m.Question[0].Qtype &&
		r.Question[0].Qclass == m.Question[0].Qclass && strings.EqualFold(r.Question[0].Name, m.Question[0].Name)
}
