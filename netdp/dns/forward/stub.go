package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/netdp/dns/wire"
)

// Stub is a domain with servers of its own.
type Stub struct {
	Domain  string
	Servers []netip.AddrPort

	name string // Domain in wire form
}

// maxStubs and maxStubServers bound what one host is told by flags.
const (
	maxStubs       = 128
	maxStubServers = 8
)

// ParseStubs reads DOMAIN=ADDRESS[:PORT],... for each.
func ParseStubs(texts []string) ([]Stub, error) {
	if len(texts) > maxStubs {
		return nil, fmt.Errorf("%d stub domains are more than the limit of %d", len(texts), maxStubs)
	}
	var out []Stub
	for _, text := range texts {
		s, err := parseStub(text)
		if err != nil {
			return nil, fmt.Errorf("stub domain %q: %w; want DOMAIN=ADDRESS[:PORT],... such as example.org=10.1.2.3,10.1.2.4", text, err)
		}
		if slices.ContainsFunc(out, func(o Stub) bool { return o.name == s.name }) {
			return nil, fmt.Errorf("stub domain %s is given twice; name all its servers at once", s.Domain)
		}
		out = append(out, s)
	}
	// The longest match wins: it comes first.
	slices.SortStableFunc(out, func(a, b Stub) int { return len(b.name) - len(a.name) })
	return out, nil
}

func parseStub(text string) (Stub, error) {
	domain, list, ok := strings.Cut(text, "=")
	domain = strings.ToLower(strings.Trim(strings.TrimSpace(domain), "."))
	if !ok || domain == "" {
		return Stub{}, errors.New("there is no domain")
	}
	name, err := wire.FromText(domain)
	if err != nil {
		return Stub{}, err
	}
	s := Stub{Domain: domain, name: string(name)}
	for _, server := range strings.Split(list, ",") {
		server = strings.TrimSpace(server)
		to, err := netip.ParseAddrPort(server)
		if err != nil {
			addr, err := netip.ParseAddr(server)
			if err != nil {
				return Stub{}, fmt.Errorf("server %q is no address", server)
			}
			to = netip.AddrPortFrom(addr, dnsPort)
		}
		s.Servers = append(s.Servers, to)
	}
	if len(s.Servers) > maxStubServers {
		return Stub{}, fmt.Errorf("%d servers are more than the limit of %d", len(s.Servers), maxStubServers)
	}
	return s, nil
}

// covers tells whether a name is the domain or below it.
func (s *Stub) covers(name string) bool {
	rest, ok := strings.CutSuffix(name, s.name)
	if !ok {
		return false
	}
	for rest != "" { // the suffix must begin at a label
		size := 1 + int(rest[0])
		if size > len(rest) {
			return false
		}
		rest = rest[size:]
	}
	return true
}
