package records

import (
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	// TTL of records of the cell, in seconds. A client that keeps an answer is
	// late by as much; it is CoreDNS's default.
	TTL = 5
	// SchemaVersion is the schema's that is served.
	SchemaVersion = "1.1.0"

	serviceLabel, podLabel = "svc", "pod"
	// serverName is this server's own, as CoreDNS has it.
	serverName = "ns.dns."
	// maxLabels of a name below "svc.": _port._proto.service.namespace.
	maxLabels = 4
)

// Answer is what the index knows of a name.
type Answer struct {
	// Ours: the name is the cell's, whether it exists or not. Nothing else is
	// set otherwise.
	Ours bool
	// Exists: the name is there, maybe without records of the type asked for.
	Exists bool
	// Records answer the question, Extra are addresses of what they name.
	Records, Extra []dns.RR
	// Alias is the name that the records ask to look up in this one's place.
	Alias string
	// Authority is the SOA record for answers without records.
	Authority dns.RR
}

// Lookup answers for a fully qualified name in lower case.
func (x *Index) Lookup(name string, qtype uint16) Answer {
	if addr, reverse := reverseAddr(name); reverse {
		return x.pointers(name, addr, qtype)
	}
	rest, ok := x.within(name)
	if !ok {
		return Answer{}
	}
	a := &answer{x: x, name: name, qtype: qtype}
	x.mu.RLock()
	defer x.mu.RUnlock()
	a.find(rest)
	return Answer{
		Ours: true, Exists: a.exists, Records: a.records, Extra: a.extra, Alias: a.alias,
		Authority: soa(x.domain, x.domain),
	}
}

// within cuts the domain off a name; rest ends in a dot or is empty.
func (x *Index) within(name string) (rest string, ok bool) {
	rest, ok = strings.CutSuffix(name, x.domain)
	return rest, ok && (rest == "" || rest[len(rest)-1] == '.')
}

func soa(zone, domain string) dns.RR {
	return &dns.SOA{
		Hdr: header(zone, dns.TypeSOA), Ns: serverName + domain, Mbox: "hostmaster." + domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: TTL,
	}
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: TTL}
}

// answer is made under the index's lock.
type answer struct {
	x              *Index
	name           string
	qtype          uint16
	exists         bool
	records, extra []dns.RR
	alias          string
}

// find looks for the name of which rest is left of the domain.
func (a *answer) find(rest string) {
	switch {
	case rest == "":
		a.domain()
	case rest == "dns-version.":
		a.exists = true
		if a.qtype == dns.TypeTXT {
			a.records = append(a.records, &dns.TXT{Hdr: header(a.name, dns.TypeTXT), Txt: []string{SchemaVersion}})
		}
	case rest == serverName:
		a.exists = true
		if a.x.server.IsValid() {
			a.addresses(&a.records, a.name, a.qtype, a.x.server)
		}
	case rest == "dns.", rest == serviceLabel+".", rest == podLabel+".":
		a.exists = true
	case strings.HasSuffix(rest, "."+serviceLabel+"."):
		a.service(strings.TrimSuffix(rest, "."+serviceLabel+"."))
	case strings.HasSuffix(rest, "."+podLabel+"."):
		a.pod(strings.TrimSuffix(rest, "."+podLabel+"."))
	}
}

func (a *answer) domain() {
	a.exists = true
	switch a.qtype {
	case dns.TypeSOA:
		a.records = append(a.records, soa(a.x.domain, a.x.domain))
	case dns.TypeNS:
		a.records = append(a.records, &dns.NS{Hdr: header(a.x.domain, dns.TypeNS), Ns: serverName + a.x.domain})
		if a.x.server.IsValid() {
			a.addresses(&a.extra, serverName+a.x.domain, dns.TypeA, a.x.server)
		}
	}
}

// addresses appends those of the type asked for.
func (a *answer) addresses(to *[]dns.RR, name string, qtype uint16, addrs ...netip.Addr) {
	for _, addr := range addrs {
		switch {
		case qtype == dns.TypeA && addr.Is4():
			*to = append(*to, &dns.A{Hdr: header(name, dns.TypeA), A: net.IP(addr.AsSlice())})
		case qtype == dns.TypeAAAA && addr.Is6():
			*to = append(*to, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: net.IP(addr.AsSlice())})
		}
	}
}

// service finds what is left of ".svc": a namespace, a service, an endpoint, or
// a port of a service.
func (a *answer) service(rest string) {
	labels := strings.Split(rest, ".")
	n := len(labels)
	if n > maxLabels {
		return
	}
	if n == 1 {
		_, a.exists = a.x.namespaces[rest]
		return
	}
	s := a.x.services[key{labels[n-1], labels[n-2]}]
	if s == nil {
		return
	}
	switch {
	case n == 2:
		a.serviceItself(s)
	case s.external != "":
	case n == 3 && strings.HasPrefix(labels[0], "_"):
		for ports := range s.ports { // the name between service and port
			a.exists = a.exists || strings.HasSuffix(ports, "."+labels[0])
		}
	case n == 3:
		var addrs []netip.Addr
		addrs, a.exists = s.endpoints[labels[0]]
		a.addresses(&a.records, a.name, a.qtype, addrs...)
	default:
		a.ports(s, labels[0]+"."+labels[1], strings.Join(labels[2:], ".")+"."+serviceLabel+"."+a.x.domain)
	}
}

func (a *answer) serviceItself(s *service) {
	if s.external != "" {
		a.exists = true
		a.records = append(a.records, &dns.CNAME{Hdr: header(a.name, dns.TypeCNAME), Target: s.external})
		if a.qtype != dns.TypeCNAME {
			a.alias = s.external
		}
		return
	}
	// The schema: a headless service without a ready endpoint is no name.
	a.exists = !s.headless || len(s.addresses) > 0
	a.addresses(&a.records, a.name, a.qtype, s.addresses...)
	if a.qtype == dns.TypeSRV { // as CoreDNS: every port at once
		for labels := range s.ports {
			a.srv(s, labels, a.name)
		}
	}
}

func (a *answer) ports(s *service, labels, owner string) {
	if _, a.exists = s.ports[labels]; a.exists && a.qtype == dns.TypeSRV {
		a.srv(s, labels, owner)
	}
}

// srv appends a port's places, and their addresses beside them.
func (a *answer) srv(s *service, labels, owner string) {
	for _, t := range s.ports[labels] {
		host, addrs := owner, s.addresses
		if t.host != "" {
			host, addrs = t.host+"."+owner, s.endpoints[t.host]
		}
		a.records = append(a.records, &dns.SRV{Hdr: header(a.name, dns.TypeSRV), Weight: 100, Port: t.port, Target: host})
		a.addresses(&a.extra, host, dns.TypeA, addrs...)
		a.addresses(&a.extra, host, dns.TypeAAAA, addrs...)
	}
}

// pod finds what is left of ".pod": a namespace, or the address of a pod.
func (a *answer) pod(rest string) {
	label, namespace, two := strings.Cut(rest, ".")
	if !two {
		_, a.exists = a.x.namespaces[rest]
		return
	}
	addr, ok := undashed(label)
	if !ok {
		return
	}
	if _, a.exists = a.x.pods[podKey{namespace, addr}]; a.exists {
		a.addresses(&a.records, a.name, a.qtype, addr)
	}
}
