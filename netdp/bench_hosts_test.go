package netdp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostWay is one of the ways between two hosts that are compared.
type hostWay struct {
	name     string
	from, to namespace
	addr     netip.Addr
}

// The order of the ways.
const (
	wayHosts = iota
	wayPlainPods
	wayShoalPods
	hostWays
)

// BenchmarkHosts compares pods on two hosts, through shoal, with two hosts that
// shoal is not on and with pods there, in turns: on one link, by VXLAN with a router
// between the hosts, and there once more with shoal's packets encrypted and the
// others by VXLAN. The router and its bridges are the same for all.
func BenchmarkHosts(b *testing.B) {
	c := newCell(b, "near1", "near2", "far3")
	c.meet()
	pods := make([]cellPod, len(c.hosts))
	for i, h := range c.hosts {
		ns, ip := h.pod(h.dp, "bench")
		pods[i] = cellPod{h, ns, ip}
	}
	near1, near2, far3 := c.plainHost(1, "near", 0), c.plainHost(2, "near", 0), c.plainHost(3, "far", 1)
	c.connectPlain(near1, near2, false)
	c.connectPlain(near1, far3, true)
	compare := func(name string, ways [hostWays]hostWay) {
		b.Run(name+"/bulk", func(b *testing.B) { c.bulk(b, ways) })
		b.Run(name+"/roundtrip", func(b *testing.B) { c.roundTrips(b, ways) })
	}
	compare("direct", [hostWays]hostWay{
		{"hosts", near1.ns, near2.ns, near2.ip},
		{"plain-pods", near1.pod, near2.pod, near2.podIP},
		{"shoal-pods", pods[0].ns, pods[1].ns, pods[1].ip},
	})
	far := [hostWays]hostWay{
		{"hosts", near1.ns, far3.ns, far3.tunnelIP},
		{"plain-pods", near1.pod, far3.pod, far3.podIP},
		{"shoal-pods", pods[0].ns, pods[2].ns, pods[2].ip},
	}
	compare("vxlan", far)
	c.encrypt(c.hosts...)
	c.meet()
	compare("wireguard", far)
}

// pair connects the ends of a way and gives one to serve, which ends when the
// other is closed; that one is returned.
func (c *cell) pair(b *testing.B, w hostWay, serve func(fd int)) (fd int) {
	b.Helper()
	var ln net.Listener
	c.must(w.to.do(func() (err error) {
		ln, err = net.Listen("tcp4", netip.AddrPortFrom(w.addr, 0).String())
		return err
	}))
	defer ln.Close()
	conn, err := dial(w.from, "tcp4", ln.Addr().String())
	c.must(err)
	other, err := ln.Accept() // what dial has made is there
	c.must(err)
	served, err := blocking(other)
	c.must(err)
	fd, err = blocking(conn)
	c.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(served)
		_ = unix.Close(served)
	}()
	b.Cleanup(func() {
		_ = unix.Close(fd)
		<-done
	})
	return fd
}

const (
	// bulkBytes are sent one way before the next has its turn.
	bulkBytes  = 32 << 20
	bulkTurns  = 20
	chunkBytes = 256 << 10
)

// bulk is the throughput of one TCP connection.
func (c *cell) bulk(b *testing.B, ways [hostWays]hostWay) {
	var fds [hostWays]int
	for i, w := range ways {
		fds[i] = c.pair(b, w, confirm)
	}
	chunk, answer := make([]byte, chunkBytes), make([]byte, 1)
	send := func(fd int) error {
		for sent := 0; sent < bulkBytes; {
			n, err := unix.Write(fd, chunk[:min(chunkBytes, bulkBytes-sent)])
			if err != nil && err != unix.EINTR {
				return err
			}
			sent += max(n, 0)
		}
		_, err := read(fd, answer)
		return err
	}
	var times [hostWays][]time.Duration
	for b.Loop() {
		for range bulkTurns {
			for i := range ways {
				times[i] = timed(b, times[i], func() error { return send(fds[i]) })
			}
		}
	}
	var rates [hostWays]float64
	for i := range ways {
		rates[i] = bulkBytes / 1e6 / p50(times[i]).Seconds()
	}
	report(b, ways, rates, "MB/s")
}

// confirm answers each bulkBytes by one byte.
func confirm(fd int) {
	chunk := make([]byte, chunkBytes)
	for got := 0; ; {
		n, err := read(fd, chunk)
		if err != nil || n == 0 {
			return
		}
		if got += n; got < bulkBytes {
			continue
		}
		got = 0
		if _, err := unix.Write(fd, chunk[:1]); err != nil {
			return
		}
	}
}

// roundTrips is the time of one byte there and back.
func (c *cell) roundTrips(b *testing.B, ways [hostWays]hostWay) {
	onOneProcessor(b)
	var fds [hostWays]int
	for i, w := range ways {
		fds[i] = c.pair(b, w, sendBack)
	}
	var times [hostWays][]time.Duration
	buf := make([]byte, 1)
	for b.Loop() {
		for i := range ways {
			for range inARow {
				times[i] = timed(b, times[i], func() error { return roundTrip(fds[i], buf) })
			}
		}
	}
	var values [hostWays]float64
	for i := range ways {
		values[i] = microseconds(p50(times[i]))
	}
	report(b, ways, values, "µs")
}

func sendBack(fd int) {
	buf := make([]byte, 1)
	for {
		if n, err := read(fd, buf); err != nil || n == 0 {
			return
		}
		if _, err := unix.Write(fd, buf); err != nil {
			return
		}
	}
}

// report gives a value for each way, and shoal's over those of the others.
func report(b *testing.B, ways [hostWays]hostWay, values [hostWays]float64, unit string) {
	for i, w := range ways {
		b.ReportMetric(values[i], w.name+"-"+unit)
	}
	b.ReportMetric(0, "ns/op") // of all ways together
	b.ReportMetric(values[wayShoalPods]/values[wayHosts], "ratio")
	b.ReportMetric(values[wayShoalPods]/values[wayPlainPods], "pods-ratio")
}
