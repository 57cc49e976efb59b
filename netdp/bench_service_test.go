package netdp

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkServices compares ways to a server, in turns: straight, and through a
// service of shoal's, of iptables' and of nft's, with kube-proxy's rules. Each
// has a host of its own with the same services; "direct" is one without any. Of
// shoal's pods, "shoal-direct" is straight, and "ratio" is by it.
func BenchmarkServices(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			r := newServiceRig(b, services)
			b.Run("connect", r.connect)
			b.Run("nodeport", r.nodePort)
			b.Run("udp", r.udp)
			b.Run("udp-socket", r.udpSocket)
			b.Run("change", r.change)
		})
	}
}

const (
	// connectSamples is how many connections of each way are made at a time; a
	// process has 20,000 descriptors.
	connectSamples = 2_500
	// endpointsEach is how many endpoints the services have that nobody calls.
	endpointsEach = 1
	// requestBytes is the size of a request and of its answer.
	requestBytes = 128

	directPort, secondPort, datagramPort = 8080, 8081, 5353
	// A caller's port may come again while a closed call through the node port is
	// remembered, so straight requests go to a port of their own.
	requestPort, straightRequestPort, benchNodePort = 9090, 9091, 30080
)

// connect makes TCP connections.
func (r *serviceRig) connect(b *testing.B) {
	ways := r.inside(lastFrontend, directPort, secondPort)
	r.perSocket(b, ways, unix.SOCK_STREAM, unix.Connect)
}

// udpSocket asks and hears with a socket for each question, as resolvers do.
func (r *serviceRig) udpSocket(b *testing.B) {
	buf := make([]byte, requestBytes)
	r.perSocket(b, r.inside(udpFrontend, datagramPort), unix.SOCK_DGRAM, func(fd int, to unix.Sockaddr) error {
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		return roundTrip(fd, buf)
	})
}

// perSocket measures what can be done once with a socket.
func (r *serviceRig) perSocket(b *testing.B, ways [serviceWays]serviceWay, kind int, do func(fd int, to unix.Sockaddr) error) {
	onOneProcessor(b)
	var times [serviceWays][]time.Duration
	for b.Loop() {
		fds := r.sockets(ways, kind, connectSamples)
		for begin := 0; begin < connectSamples; begin += inARow {
			for i, w := range ways {
				for _, fd := range fds[i][begin : begin+inARow] {
					to := w.next()
					times[i] = timed(b, times[i], func() error { return do(fd, to) })
					r.shoal.must(unix.Close(fd))
				}
			}
		}
	}
	r.reportTimes(b, ways, times)
}

// udp asks and hears with one socket that is not connected.
func (r *serviceRig) udp(b *testing.B) {
	ways := r.inside(udpFrontend, datagramPort)
	fds := r.sockets(ways, unix.SOCK_DGRAM, 1)
	buf := make([]byte, requestBytes)
	onOneProcessor(b)
	var times [serviceWays][]time.Duration
	for b.Loop() {
		for i, w := range ways {
			to := w.next()
			for range inARow {
				times[i] = timed(b, times[i], func() error { return askAndHear(fds[i][0], to, buf) })
			}
		}
	}
	for _, fd := range fds {
		r.shoal.must(unix.Close(fd[0]))
	}
	r.reportTimes(b, ways, times)
}

// askAndHear sends a datagram and waits for the answer, which comes from the
// address that was asked.
func askAndHear(fd int, to *unix.SockaddrInet4, buf []byte) error {
	if err := unix.Sendto(fd, buf, 0, to); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	for {
		_, from, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the answer: %w", err)
		}
		if f, ok := from.(*unix.SockaddrInet4); !ok || f.Addr != to.Addr || f.Port != to.Port {
			return fmt.Errorf("asked %v:%d, heard from %+v", to.Addr, to.Port, from)
		}
		return nil
	}
}

const (
	// requesters call at once.
	requesters = 4
	// requestWindow is how long they call one way before the next has its turn.
	requestWindow = 100 * time.Millisecond
	requestTurns  = 15
	changeTurns   = 5
)

// nodePort has another machine send requests, each by a connection of its own.
func (r *serviceRig) nodePort(b *testing.B) {
	ways := r.outside(straightRequestPort)
	var rates [serviceWays][]float64
	r.shoal.outsideCgroup(func() {
		for b.Loop() {
			for range requestTurns {
				for i, w := range ways {
					rates[i] = append(rates[i], r.requestRate(b, w))
				}
			}
		}
	})
	var values [serviceWays]float64
	for i := range ways {
		values[i] = p50(rates[i])
	}
	r.report(b, ways, values, "requests/s")
}

// requestRate is how many requests a second are answered.
func (r *serviceRig) requestRate(b *testing.B, w serviceWay) float64 {
	var answered atomic.Int64
	var callers sync.WaitGroup
	began := time.Now()
	for range requesters {
		callers.Go(func() {
			err := w.from.do(func() error {
				to, buf := w.next(), make([]byte, requestBytes)
				for time.Since(began) < requestWindow {
					if err := request(to, buf); err != nil {
						return err
					}
					answered.Add(1)
				}
				return nil
			})
			if err != nil {
				b.Errorf("%s: %v", w.name, err)
			}
		})
	}
	callers.Wait()
	rate := float64(answered.Load()) / time.Since(began).Seconds()
	if b.Failed() {
		b.FailNow()
	}
	return rate
}

// request connects, asks and hears from the calling thread's namespace.
func request(to unix.Sockaddr, buf []byte) error {
	fd, err := shortSocket(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return roundTrip(fd, buf)
}

// change takes away and adds an endpoint of the last service. For iptables and
// nft that is what kube-proxy writes, and the start of their tool, as there.
func (r *serviceRig) change(b *testing.B) {
	last := len(r.all) - 1
	backends := r.all[last].Backends
	var shoal, iptables, nft []time.Duration
	for b.Loop() {
		for i := range 2 * changeTurns {
			all := slices.Clone(r.all)
			all[last].Backends = backends[:1+i%2]
			shoal = timed(b, shoal, func() error { return r.dp.SetService(all[last]) })
			rules := iptablesChange(all, last)
			iptables = timed(b, iptables, func() error { r.iptables.loadIPTables(r.iptables.host, rules); return nil })
			rules = nftChange(all, last)
			nft = timed(b, nft, func() error { r.nft.loadNFT(r.nft.host, rules); return nil })
		}
	}
	r.shoal.must(r.dp.SetService(r.all[last]))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(microseconds(p50(shoal)), "shoal-µs")
	b.ReportMetric(microseconds(p50(iptables)), "iptables-µs")
	b.ReportMetric(microseconds(p50(nft)), "nft-µs")
}
