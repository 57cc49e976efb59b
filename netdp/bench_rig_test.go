package netdp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchService is the n-th of many, at an address of its own.
func benchService(n, endpoints int) Service {
	s := Service{
		Key: fmt.Sprint("service-", n), Proto: TCP,
		Frontends: []Frontend{{Addr: netip.AddrFrom4([4]byte{10, 0, byte(1 + n>>8), byte(n)}), Port: 80}},
	}
	for i := range endpoints {
		addr := netip.AddrFrom4([4]byte{10, 100 + byte(n>>14), byte(n >> 6), byte(n<<2) + byte(i>>6)})
		s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(addr, uint16(8000+i))})
	}
	return s
}

// The services that are called.
var (
	lastFrontend    = netip.MustParseAddrPort("10.0.0.10:80")
	requestFrontend = netip.MustParseAddrPort("10.0.0.11:80")
	udpFrontend     = netip.MustParseAddrPort("10.0.0.12:53")
)

// benchSite is a host with a client's and a server's pod.
type benchSite struct {
	*lab
	client namespace
}

// serviceRig is four sites whose server pods have the same address.
type serviceRig struct {
	shoal, plain, iptables, nft benchSite
	server                      netip.Addr
	dp                          *Datapath // of shoal
	all                         []Service
}

func newServiceRig(b *testing.B, services int) *serviceRig {
	l := newLab(b)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	r := &serviceRig{shoal: benchSite{l, client}, server: serverIP}
	r.serve(server)
	for _, site := range []*benchSite{&r.plain, &r.iptables, &r.nft} {
		site.lab = newPlainLab(b)
		r.serve(site.plainPod(site.host, serverIP, 0))
		site.client = site.plainPod(site.host, clientIP, 0)
	}
	all := r.services(services)
	for _, s := range all {
		l.must(d.SetService(s))
	}
	r.iptables.loadIPTables(r.iptables.host, iptablesRules(all))
	r.nft.loadNFT(r.nft.host, nftRules(all))
	r.dp, r.all = d, all
	return r
}

func (r *serviceRig) serve(ns namespace) {
	r.shoal.acceptAndClose(ns, directPort)
	r.shoal.acceptAndClose(ns, secondPort)
	r.shoal.answerRequests(ns, requestPort, requesters)
	r.shoal.answerRequests(ns, straightRequestPort, requesters)
	r.shoal.answerDatagrams(ns, datagramPort)
}

// services are n, of which those that are called come last, and what connections
// are made to is the very last. It has two endpoints, so that one is chosen.
func (r *serviceRig) services(n int) []Service {
	all := make([]Service, 0, n)
	for i := range n - 3 {
		all = append(all, benchService(i, endpointsEach))
	}
	called := func(key string, proto Proto, at netip.AddrPort, ports ...uint16) Service {
		s := Service{Key: key, Proto: proto, Frontends: []Frontend{{Addr: at.Addr(), Port: at.Port()}}}
		for _, p := range ports {
			s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(r.server, p)})
		}
		return s
	}
	requests := called("requests", TCP, requestFrontend, requestPort)
	requests.Frontends = append(requests.Frontends, Frontend{Port: benchNodePort})
	return append(all, called("udp", UDP, udpFrontend, datagramPort), requests,
		called("last", TCP, lastFrontend, directPort, secondPort))
}

// serviceWay is one of the ways that are compared.
type serviceWay struct {
	name string
	from namespace
	// to are the server's ports, of which calls take any, or the service.
	to []netip.AddrPort
	// inside: the sockets are in the cgroup of shoal's programs.
	inside bool
}

// The order of the ways.
const (
	wayDirect = iota
	wayShoalDirect
	wayShoal
	wayIPTables
	wayNFT
	serviceWays
)

// inside are the ways of a pod of each site.
func (r *serviceRig) inside(service netip.AddrPort, direct ...uint16) [serviceWays]serviceWay {
	return r.ways(direct, service, func(s benchSite) namespace { return s.client }, true)
}

// outside are those of another machine, to a node port.
func (r *serviceRig) outside(direct uint16) [serviceWays]serviceWay {
	return r.ways([]uint16{direct}, netip.MustParseAddrPort(fmt.Sprint(labHostIP, ":", benchNodePort)),
		func(s benchSite) namespace { return s.lab.outside }, false)
}

func (r *serviceRig) ways(direct []uint16, service netip.AddrPort, from func(benchSite) namespace, inside bool) [serviceWays]serviceWay {
	through, straight := []netip.AddrPort{service}, []netip.AddrPort(nil)
	for _, port := range direct {
		straight = append(straight, netip.AddrPortFrom(r.server, port))
	}
	return [serviceWays]serviceWay{
		wayDirect:      {"direct", from(r.plain), straight, false},
		wayShoalDirect: {"shoal-direct", from(r.shoal), straight, false},
		wayShoal:       {"shoal", from(r.shoal), through, inside},
		wayIPTables:    {"iptables", from(r.iptables), through, false},
		wayNFT:         {"nft", from(r.nft), through, false},
	}
}

// next is where the next call goes. As many sockets wait for straight calls as for
// those through the service: waking one up is a good part of a connection.
func (w serviceWay) next() *unix.SockaddrInet4 { return sockaddr(w.to[rand.IntN(len(w.to))]) }

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// report gives a value for each way, and those that the targets are about.
func (r *serviceRig) report(b *testing.B, ways [serviceWays]serviceWay, values [serviceWays]float64, unit string) {
	for i, w := range ways {
		b.ReportMetric(values[i], w.name+"-"+unit)
	}
	b.ReportMetric(0, "ns/op") // of all ways together
	b.ReportMetric(values[wayShoal]/values[wayShoalDirect], "ratio")
	b.ReportMetric(values[wayIPTables]/values[wayDirect], "iptables-ratio")
	b.ReportMetric(values[wayNFT]/values[wayDirect], "nft-ratio")
	b.ReportMetric(values[wayIPTables]/values[wayShoal], "iptables/shoal")
	b.ReportMetric(values[wayShoal]/values[wayNFT], "shoal/nft")
}

func (r *serviceRig) reportTimes(b *testing.B, ways [serviceWays]serviceWay, times [serviceWays][]time.Duration) {
	var values [serviceWays]float64
	for i := range ways {
		values[i] = microseconds(p50(times[i]))
	}
	r.report(b, ways, values, "µs")
}

// sockets makes n of them for each way.
func (r *serviceRig) sockets(ways [serviceWays]serviceWay, kind, n int) (fds [serviceWays][]int) {
	r.shoal.outsideCgroup(func() {
		for i, w := range ways {
			if !w.inside {
				fds[i] = r.shoal.sockets(w.from, kind, n)
			}
		}
	})
	for i, w := range ways {
		if w.inside {
			fds[i] = r.shoal.sockets(w.from, kind, n)
		}
	}
	return fds
}
