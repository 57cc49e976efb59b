package netdp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchService is one of many: ten endpoints each.
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

// BenchmarkConnect compares connecting through the last of many services with
// connecting straight. Sockets that connect straight are made outside the
// cgroup, so that no program of ours sees them; the two kinds take turns.
func BenchmarkConnect(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) { benchmarkConnect(b, services) })
	}
}

// connectSamples is how many connections of each kind make up the medians.
const connectSamples = 5_000

func benchmarkConnect(b *testing.B, services int) {
	l := newLab(b)
	d := l.openUntilEnd()
	server, ip := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	l.acceptAndClose(server, 8080)
	last := Service{
		Key: "last", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 8080)}},
	}
	for n := range services - 1 {
		l.must(d.SetService(benchService(n, 10)))
	}
	l.must(d.SetService(last))
	direct := &unix.SockaddrInet4{Port: 8080, Addr: ip.As4()}
	service := &unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 0, 0, 10}}

	var times [2][]time.Duration
	for b.Loop() {
		var sockets [2][]int
		l.outsideCgroup(func() { sockets[0] = l.sockets(client, connectSamples) })
		sockets[1] = l.sockets(client, connectSamples)
		for i := range connectSamples {
			times[0] = append(times[0], connectTime(b, sockets[0][i], direct))
			times[1] = append(times[1], connectTime(b, sockets[1][i], service))
		}
	}
	p50 := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2])
	}
	b.ReportMetric(p50(times[1])/p50(times[0]), "ratio")
	b.ReportMetric(p50(times[1])/1000, "service-µs")
	b.ReportMetric(p50(times[0])/1000, "direct-µs")
}

func connectTime(b *testing.B, fd int, to unix.Sockaddr) time.Duration {
	start := time.Now()
	err := unix.Connect(fd, to)
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		b.Fatal(err)
	}
	return took
}

// sockets makes TCP sockets in ns that leave no TIME_WAIT behind.
func (l *lab) sockets(ns namespace, n int) []int {
	l.t.Helper()
	fds := make([]int, n)
	l.must(ns.do(func() error {
		for i := range fds {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return err
			}
			fds[i] = fd
		}
		return nil
	}))
	return fds
}

// acceptAndClose serves as little as can be.
func (l *lab) acceptAndClose(ns namespace, port int) {
	l.t.Helper()
	var fd int
	l.must(ns.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
		return unix.Listen(fd, 1024)
	}))
	l.t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // wakes the accept below
	})
	go func() {
		defer unix.Close(fd)
		for {
			c, _, err := unix.Accept(fd)
			if err == unix.ECONNABORTED || err == unix.EINTR {
				continue
			}
			if err != nil {
				return
			}
			_ = unix.Close(c)
		}
	}()
}

// BenchmarkEndpointChange adds and removes one of eleven endpoints of one of
// 10,000 services: from the new service to the kernel's maps.
func BenchmarkEndpointChange(b *testing.B) {
	benchmarkChange(b, Frontend{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80})
}

// BenchmarkEndpointChangeNodePort has the Maglev table on top.
func BenchmarkEndpointChangeNodePort(b *testing.B) { benchmarkChange(b, Frontend{Port: 30080}) }

func benchmarkChange(b *testing.B, frontend Frontend) {
	l := newLab(b)
	d := l.openUntilEnd()
	for n := range 9_999 {
		l.must(d.SetService(benchService(n, 10)))
	}
	large := benchService(9_999, 11)
	large.Frontends = []Frontend{frontend}
	small := large
	small.Backends = large.Backends[:10]
	l.must(d.SetService(large))
	for i := 0; b.Loop(); i++ {
		next := large
		if i%2 == 0 {
			next = small
		}
		if err := d.SetService(next); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad sets 10,000 services of 10 endpoints in empty maps.
func BenchmarkLoad(b *testing.B) {
	l := newLab(b)
	services := make([]Service, 10_000)
	for n := range services {
		services[n] = benchService(n, 10)
	}
	for b.Loop() {
		b.StopTimer()
		d := l.open()
		b.StartTimer()
		for _, s := range services {
			if err := d.SetService(s); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(mapMemory(b, d))/(1<<20), "map-MiB")
		l.must(d.Remove())
		b.StartTimer()
	}
}

// mapMemory is what the kernel says its maps take, in bytes.
func mapMemory(t testing.TB, d *Datapath) (total uint64) {
	t.Helper()
	for name, m := range d.maps {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		if n, ok := info.Memlock(); ok {
			t.Logf("%s %d KiB", name, n>>10)
			total += n
		}
	}
	return total
}
