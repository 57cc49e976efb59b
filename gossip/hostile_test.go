package gossip

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/gossip/stream"
	"shoal/store"
	"shoal/store/vector"
	"shoal/test/eventually"
)

// settles waits until no more goroutines run than before, but for a few.
func settles(t *testing.T, before int) {
	t.Helper()
	const few = 10
	eventually.True(t, "goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before+few })
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// goOn: peers still agree on what is written now.
func goOn(t *testing.T, peers ...*testPeer) {
	t.Helper()
	key := fmt.Sprintf("/registry/on/%d", time.Now().UnixNano())
	for _, p := range peers {
		p.write(key+p.name, "x")
	}
	eventually.True(t, "the others go on", func() bool {
		for _, p := range peers {
			for _, q := range peers {
				if !p.has(key+q.name, "x") {
					return false
				}
			}
		}
		return true
	})
}

// evil dials as a node of the cell that does as it likes.
func evil(t *testing.T, victim *testPeer, name string) *stream.Link {
	t.Helper()
	e, err := stream.New(stream.Options{Transport: stream.TCP{}, Identity: victim.authority.identity(t, name), QueueBytes: 16 << 20, BytesPerSecond: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := e.Dial(ctx, victim.node.StreamAddress(), victim.name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

const evilActor = vector.Actor(0xbad)

func greeting() Frame {
	return Frame{Kind: kindHello, Payload: appendHello(nil, hello{Actor: evilActor, Clock: time.Now(), Tree: true})}
}

// TestHostileMembers: each of these holds a node's certificate of this cell. It
// loses its link and is not let in again at once; the others feel nothing.
func TestHostileMembers(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	victim := peers[0]
	wide, far := vector.Vector{}, vector.Vector{}
	if err := errors.Join(wide.AddSpan(7, vector.Span{First: 1, Last: 1 << 40}), far.AddSpan(7, vector.Span{First: 1, Last: math.MaxUint64})); err != nil {
		t.Fatal(err)
	}
	repeat := func(f Frame) func(int) (Frame, bool) { return func(int) (Frame, bool) { return f, true } }
	for name, next := range map[string]func(i int) (Frame, bool){
		"one record a million times": repeat(push(stamped(evilActor, 1))),
		"an absurd vector":           repeat(Frame{Kind: kindVector, Payload: appendHolding(nil, holding{Actor: evilActor, Vector: far})}),
		"a boundless question":       repeat(Frame{Kind: kindWant, Payload: vector.AppendVector(nil, wide)}),
		"answers nobody wanted":      repeat(Frame{Kind: kindDeltas, Payload: appendAnswer(nil, answer{Deltas: []store.Delta{large(1 << 20)}})}),
		"rubbish":                    repeat(Frame{Kind: kindTree, Payload: []byte("rubbish")}),
		"the largest rubbish":        repeat(Frame{Kind: kindSetOpen, Payload: make([]byte, stream.MaxFrameBytes)}),
	} {
		t.Run(name, func(t *testing.T) {
			before, memory, stop := runtime.NumGoroutine(), heapBytes(), make(chan struct{})
			evilName := "evil-" + strings.ReplaceAll(name, " ", "-")
			l := evil(t, victim, evilName)
			if err := l.Send(greeting()); err != nil {
				t.Fatal(err)
			}
			var said string
			var sending sync.WaitGroup
			sending.Go(func() {
				for i := 0; ; i++ {
					f, more := next(i)
					if !more || l.SendPaced(t.Context(), f) != nil {
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			err := l.Run(ctx, func(f Frame) error {
				if f.Kind == kindBye {
					said = string(f.Payload)
				}
				return nil
			})
			if ctx.Err() != nil {
				t.Fatalf("it was not cut off: %v", err)
			}
			close(stop)
			l.Close()
			sending.Wait()
			goOn(t, peers...)
			settles(t, before)
			eventually.True(t, "at most 64 MiB of heap are kept", func() bool { return heapBytes() <= memory+64<<20 })
			t.Logf("told: %q", said)
			again := evil(t, victim, evilName)
			if err := again.Send(greeting()); err != nil {
				t.Fatal(err)
			}
			if err := again.Run(ctx, func(f Frame) error {
				if f.Kind == kindBye {
					return io.EOF
				}
				if f.Kind != kindHello {
					return fmt.Errorf("it is spoken to: frame of kind %d", f.Kind)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually.True(t, "the good ones have their links, and no other", func() bool {
		for _, p := range peers {
			for _, q := range p.status().Peers {
				if strings.HasPrefix(q.Name, "evil") || !q.Connected {
					return false
				}
			}
		}
		return true
	})
}

// TestAMillionRecords: who pushes new records without end is cut off where it is
// faster than the limit, and held to what the store takes in where that is
// slower, as on a busy host. Meanwhile the others' writes get through, and what
// waits is bounded.
func TestAMillionRecords(t *testing.T) {
	peers := startCell(t, "a", "b")
	victim := peers[0]
	before, memory := runtime.NumGoroutine(), heapBytes()
	began := time.Now()
	l := evil(t, victim, "evil")
	if err := l.Send(greeting()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var flood sync.WaitGroup
	sent, said := 0, ""
	flood.Go(func() {
		defer cancel() // the link has ended
		_ = l.Run(ctx, func(f Frame) error {
			if f.Kind == kindBye {
				said = string(f.Payload)
			}
			return nil
		})
	})
	flood.Go(func() {
		for ; sent < 1_000_000 && l.SendPaced(ctx, push(stamped(evilActor, uint64(sent)+1))) == nil; sent++ {
		}
	})
	most, rounds := uint64(0), 0
	// It hears of being cut off a second later at most; what it sends meanwhile
	// is thrown away.
	const longEnough = 5 * time.Second
	for ctx.Err() == nil && (rounds < 10 || time.Since(began) < longEnough) {
		rounds++
		goOn(t, peers...)
		most = max(most, heapBytes())
	}
	cancel()
	flood.Wait()
	goOn(t, peers...)
	settles(t, before)
	if most > memory+300<<20 {
		t.Errorf("heap %d MiB, was %d", most>>20, memory>>20)
	}
	taken := (vector.Vector{evilActor: victim.db.Vector()[evilActor]}).Count()
	// By its own clock: a slow machine gives the peer more seconds.
	if seconds := uint64(time.Since(began)/time.Second) + 1; taken > pushBurst+seconds*pushRate {
		t.Errorf("%d records were taken in within %d s, a peer may push %d and %d a second", taken, seconds, pushBurst, pushRate)
	}
	t.Logf("told %q; %d records sent, %d taken in, in %d rounds of the others; heap %d MiB at most", said, sent, taken, rounds, most>>20)
}

func large(bytes int) store.Delta {
	d := stamped(evilActor, 1)
	d.Record.Value = make([]byte, bytes)
	return d
}

// TestAPeerThatNeverReads: what it asks for is bounded, and nobody waits for it.
func TestAPeerThatNeverReads(t *testing.T) {
	peers := startCell(t, "a", "b")
	victim := peers[0]
	for i := range 64 {
		victim.write(fmt.Sprintf("/registry/large/%d", i), strings.Repeat("x", 512<<10))
	}
	eventually.True(t, "both are equal", func() bool { return equalPeers(peers...) })
	before, memory := runtime.NumGoroutine(), heapBytes()
	conn, err := tls.Dial("tcp", victim.node.StreamAddress(), clientConfig(t, victim, "deaf"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	versions := []byte{'s', 'h', 'o', 'a', 'l', 0, 1, 0, 1}
	if _, err := conn.Write(versions); err != nil {
		t.Fatal(err)
	}
	var most uint64
	for i := 0; ; i++ {
		f := greeting()
		if i > 0 {
			f = Frame{Kind: kindSnapshotAsk, Payload: []byte{0, 0, 0, 0, 0, 0, 0, byte(i)}}
		}
		if _, err := conn.Write(appendWire(nil, f)); err != nil {
			break // cut off
		}
		if most = max(most, heapBytes()); i > 10_000 {
			t.Fatal("it may ask without end")
		}
		time.Sleep(time.Millisecond)
	}
	goOn(t, peers...)
	conn.Close()
	settles(t, before)
	if most > memory+256<<20 {
		t.Errorf("%d MiB of heap at most", most>>20)
	}
	t.Logf("heap %d MiB before, %d at most", memory>>20, most>>20)
}

// appendWire is stream's frame: length, kind, payload.
func appendWire(dst []byte, f Frame) []byte {
	n := len(f.Payload)
	return append(append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n), f.Kind), f.Payload...)
}

func clientConfig(t *testing.T, victim *testPeer, name string) *tls.Config {
	id := victim.authority.identity(t, name)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: id.Roots(), ServerName: victim.name, NextProtos: []string{stream.PeerProtocol},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate() },
	}
}

// TestRandomBytes: on both ports and both protocols, and connections that say
// nothing or a byte now and then.
func TestRandomBytes(t *testing.T) {
	peers := startCell(t, "a", "b")
	victim := peers[0]
	defer func() {
		if t.Failed() {
			for _, p := range peers {
				t.Logf("%s: %d members, %+v", p.name, len(p.node.Members()), p.status().Peers)
			}
		}
	}()
	before, memory := runtime.NumGoroutine(), heapBytes()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	dial := func(network, address string) net.Conn {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return nil // as many as it takes are open
		}
		context.AfterFunc(ctx, func() { c.Close() })
		return c
	}
	gossip, streams := victim.node.Address().String(), victim.node.StreamAddress()
	for _, address := range []string{gossip, streams} {
		for range 8 {
			all.Go(func() { // noise
				for ctx.Err() == nil {
					c := dial("tcp", address)
					if c == nil {
						continue
					}
					if address == streams {
						_, _ = c.Write([]byte{22, 3, 1}) // looks like TLS
					}
					_, _ = io.CopyN(c, rand.Reader, 4096)
					c.Close()
				}
			})
		}
		for range 150 {
			all.Go(func() { // silence, and a byte a second
				for ctx.Err() == nil {
					c := dial("tcp", address)
					if c == nil {
						continue
					}
					for _, b := range []byte{22, 3, 1, 0, 200, 1, 0, 0, 196} {
						if _, err := c.Write([]byte{b}); err != nil {
							break
						}
						select {
						case <-ctx.Done():
						case <-time.After(time.Second):
						}
					}
					c.Close()
				}
			})
		}
	}
	all.Go(func() {
		c := dial("udp", gossip)
		for ctx.Err() == nil && c != nil {
			_, _ = io.CopyN(c, rand.Reader, 900)
		}
	})
	most := uint64(0)
	for range 5 {
		goOn(t, peers...)
		most = max(most, heapBytes())
		time.Sleep(time.Second)
	}
	// A peer that comes meanwhile gets in.
	late := startPeer(t, victim.authority, "c", []string{gossip}, nil)
	eventually.True(t, "a new peer gets in", func() bool { return equalPeers(append(peers, late)...) })
	late.stop()
	cancel()
	all.Wait()
	settles(t, before)
	goOn(t, peers...)
	if most > memory+128<<20 {
		t.Errorf("heap %d MiB, was %d", most>>20, memory>>20)
	}
	t.Logf("heap %d MiB before, %d at most", memory>>20, most>>20)
}

// TestCertificates: who may say anything at all on the records' port.
func TestCertificates(t *testing.T) {
	peers := startCell(t, "a", "b")
	victim := peers[0]
	issue := func(a *authority, subject pkix.Name, names ...string) *tls.Certificate {
		cert, key := a.issue(t, &x509.Certificate{
			Subject: subject, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		})
		return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	}
	node := pkix.Name{CommonName: "system:node:x", Organization: []string{"system:nodes"}}
	for name, certificate := range map[string]*tls.Certificate{
		"another cell's node":     issue(newAuthority(t), node, "x"),
		"this cell's user":        issue(victim.authority, pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}),
		"a node's name, no group": issue(victim.authority, pkix.Name{CommonName: "system:node:x"}),
		"a group, no node's name": issue(victim.authority, pkix.Name{CommonName: "x", Organization: []string{"system:nodes"}}),
		"nobody":                  nil,
	} {
		config := clientConfig(t, victim, "x")
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certificate == nil {
				return &tls.Certificate{}, nil
			}
			return certificate, nil
		}
		conn, err := tls.Dial("tcp", victim.node.StreamAddress(), config)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write([]byte{'s', 'h', 'o', 'a', 'l', 0, 1, 0, 1})
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%s is answered", name)
		}
		conn.Close()
	}
	// The name is the certificate's, whatever a peer says; to be found under
	// another's name helps nobody.
	impostor := clientConfig(t, victim, "x")
	impostor.ServerName = "b"
	if conn, err := tls.Dial("tcp", victim.node.StreamAddress(), impostor); err == nil {
		conn.Close()
		t.Error("a passes for b")
	}
	goOn(t, peers...)
}

// TestVersionsApart: an older and a newer peer are refused, both sides say which
// to upgrade, and those between go on with both kinds they can speak with.
func TestVersionsApart(t *testing.T) {
	a := newAuthority(t)
	var mu sync.Mutex
	said := map[string]string{}
	speaking := func(on string, v stream.Versions) func(*Options) {
		return func(o *Options) {
			o.Versions = v
			o.Refused = func(peer, reason string) {
				mu.Lock()
				defer mu.Unlock()
				said[on+" of "+peer] = reason
			}
		}
	}
	older := startPeer(t, a, "a", nil, speaking("a", stream.Versions{Oldest: 1, Newest: 2}))
	seeds := []string{older.node.Address().String()}
	newer := startPeer(t, a, "b", seeds, speaking("b", stream.Versions{Oldest: 3, Newest: 4}))
	both := startPeer(t, a, "c", seeds, speaking("c", stream.Versions{Oldest: 2, Newest: 3}))
	older.write("/registry/older", "x")
	newer.write("/registry/newer", "x")
	eventually.True(t, "c has links with both", func() bool { return both.linked() == 2 })
	eventually.True(t, "both sides say why", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.HasSuffix(said["a of b"], "upgrade shoal on this peer") && strings.HasSuffix(said["b of a"], "upgrade shoal on the other peer")
	})
	eventually.True(t, "records travel by way of c", func() bool {
		return older.has("/registry/newer", "x") && newer.has("/registry/older", "x")
	})
	eventually.True(t, "both have the link with c alone", func() bool { return older.linked() == 1 && newer.linked() == 1 })
}
