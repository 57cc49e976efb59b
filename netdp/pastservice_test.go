package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// A client may call a backend by its own address, from a port by which it called
// a service of that backend before. It hears the address that it called last.
func TestAnswersPastServices(t *testing.T) {
	const (
		client  = labOutsideIP + ":40000"
		service = labHostIP + ":30080"
		another = "203.0.113.7:80" // of the same service
		flagRST = 0x04
		synAck  = flagSYN | flagACK
	)
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "server")
	pod, process := ip.String()+":8080", labHostIP+":6443"
	uplink := l.linkIndex(d, labUplink)
	type step struct {
		what   string
		to     string // from the client; empty: the backend answers
		flags  byte
		seq    uint32
		answer string // the address that the client hears
	}
	for _, backend := range []string{pod, process} {
		for _, c := range []struct {
			name  string
			proto Proto
			steps []step
		}{
			{"a new connection", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "past it", to: backend, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: backend},
				{what: "later", flags: flagACK, seq: 9, answer: backend},
				{what: "by the service again", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "later", flags: flagACK, seq: 9, answer: service},
			}},
			{"a SYN while the old connection is open", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "past it", to: backend, flags: flagSYN},
				{what: "the backend objects", flags: flagACK, seq: 9, answer: service},
				{what: "the backend resets the old one", flags: flagRST | flagACK, seq: 9, answer: service},
			}},
			{"a SYN by another address while the connection is open", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "acknowledged", to: service, flags: flagACK},
				{what: "by the other address", to: another, flags: flagSYN},
				{what: "the backend objects", flags: flagACK, seq: 9, answer: service},
				{what: "later", to: service, flags: flagACK},
				{what: "its answer", flags: flagACK, seq: 10, answer: service},
				{what: "the backend resets it", flags: flagRST | flagACK, seq: 10, answer: service},
			}},
			{"a segment by another address while the connection is open", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "by the other address", to: another, flags: flagACK},
				{what: "the backend objects", flags: flagACK, seq: 9, answer: service},
				{what: "reset by the other address", to: another, flags: flagRST},
				{what: "later", flags: flagACK, seq: 9, answer: service},
			}},
			{"a new connection by another address", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "by the other address", to: another, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: another},
				{what: "later", flags: flagACK, seq: 9, answer: another},
				{what: "by the first again", to: service, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: service},
				{what: "later", flags: flagACK, seq: 9, answer: service},
			}},
			{"past the service and by another address", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "past it", to: backend, flags: flagSYN},
				{what: "by the other address", to: another, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: another},
				{what: "by the first", to: service, flags: flagSYN},
				{what: "past it", to: backend, flags: flagSYN},
				{what: "its answer", flags: synAck, answer: backend},
			}},
			{"by another address to a port that is closed", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "by the other address", to: another, flags: flagSYN},
				{what: "refused", flags: flagRST | flagACK, answer: another},
			}},
			{"a call of the backend after one by another address", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "by the other address", to: another, flags: flagSYN},
				{what: "a call of the backend", flags: flagSYN, answer: backend},
			}},
			{"a port that is closed", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "past it", to: backend, flags: flagSYN},
				{what: "refused", flags: flagRST | flagACK, answer: backend},
			}},
			{"a port that was closed all the time", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "refused", flags: flagRST | flagACK, answer: service},
			}},
			{"a SYN of the backend's own", TCP, []step{
				{what: "by the service", to: service, flags: flagSYN},
				{what: "a call of the backend", flags: flagSYN, answer: backend},
			}},
			{"datagrams", UDP, []step{
				{what: "by the service", to: service},
				{what: "its answer", answer: service},
				{what: "past it", to: backend},
				{what: "its answer", answer: backend},
				{what: "by the service again", to: service},
				{what: "its answer", answer: service},
				{what: "by the other address", to: another},
				{what: "its answer", answer: another},
			}},
		} {
			t.Run(backend+" "+c.name, func(t *testing.T) {
				l := *l
				l.t = t
				l.must(d.SetService(Service{Key: "web", Proto: c.proto, Frontends: []Frontend{
					{Port: 30080}, {Addr: netip.MustParseAddr("203.0.113.7"), Port: 80, Outside: true}},
					Backends: []Backend{{Addr: netip.MustParseAddrPort(backend)}}}))
				defer func() { l.must(d.DeleteService("web")) }()
				for _, s := range c.steps {
					f := frame{src: client, dst: s.to, proto: c.proto, flags: s.flags, seq: s.seq}
					if s.to != "" {
						l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, f.bytes())
						continue
					}
					f.src, f.dst = backend, client
					verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, f.bytes())
					if want := fmt.Sprintf("%s %s > %s", c.proto, s.answer, client); verdict != verdictPass || describe(out) != want {
						t.Fatalf("%s: verdict %d, %s, want %s", s.what, verdict, describe(out), want)
					}
				}
			})
		}
	}
}

// The same with sockets: one port of the client, first by the node port.
func TestDirectCallAfterNodePort(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, ip := l.pod(d, "server")
	l.serveTCP(server, ":8080", "pod")
	l.serveTCP(l.host, ":6443", "host")
	l.serveUDP(server, ":8080", "pod")
	for _, s := range []Service{
		{Key: "tcp", Proto: TCP, Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 8080)}}},
		{Key: "udp", Proto: UDP, Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 8080)}}},
		{Key: "host", Proto: TCP, Frontends: []Frontend{{Port: 30443}}, Backends: []Backend{{Addr: netip.MustParseAddrPort(labHostIP + ":6443")}}},
	} {
		l.must(d.SetService(s))
	}
	for i, c := range []struct{ network, first, then, name string }{
		{"tcp4", labHostIP + ":30080", ip.String() + ":8080", "pod"},
		{"udp4", labHostIP + ":30080", ip.String() + ":8080", "pod"},
		{"tcp4", labHostIP + ":30443", labHostIP + ":6443", "host"},
	} {
		for _, to := range []string{c.first, c.then, c.first} {
			l.outsideCgroup(func() {
				answer, err := l.callFrom(l.outside, c.network, 41000+i, to)
				if want := c.name + " " + labOutsideIP + " hello"; err != nil || answer != want {
					t.Errorf("%s %s: %q, %v, want %q", c.network, to, answer, err, want)
				}
			})
		}
	}
}

// callFrom calls from one port of the caller, and ends that at both ends.
func (l *lab) callFrom(ns namespace, network string, port int, to string) (answer string, err error) {
	l.t.Helper()
	dialer := net.Dialer{Timeout: ioTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		return firstError(err, failed)
	}}
	dialer.LocalAddr = &net.TCPAddr{Port: port}
	if network == "udp4" {
		dialer.LocalAddr = &net.UDPAddr{Port: port}
	}
	var c net.Conn
	if err := ns.do(func() (err error) {
		c, err = dialer.Dial(network, to)
		return err
	}); err != nil {
		return "", err
	}
	defer c.Close()
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil { // a reset leaves no TIME_WAIT
			return "", err
		}
	}
	return call(c, "hello")
}

// Two first datagrams of a caller from outside, on two processors at once: both
// pass.
func TestFirstDatagramsAtOnce(t *testing.T) {
	const runners, callers = 2, 4000
	l, d, pod := masqueradeLab(t, nil)
	ctx := skbContext(l.linkIndex(d, labUplink))
	var arrived atomic.Int64
	var done sync.WaitGroup
	dropped, failed := make([]int, runners), make([]error, runners)
	for i := range runners {
		done.Go(func() {
			failed[i] = d.host.do(func() error {
				for n := range callers {
					in := frame{src: fmt.Sprintf("203.0.113.9:%d", 10000+n), dst: pod.String() + ":53", proto: UDP}.bytes()
					arrived.Add(1)
					for arrived.Load() < int64(runners*(n+1)) {
						runtime.Gosched()
					}
					verdict, err := d.progs[bpf.DatapathProgUplinkIngress].Run(&ebpf.RunOptions{Data: in, Context: ctx})
					if err != nil {
						arrived.Add(runners * callers) // the other need not wait
						return err
					}
					if verdict == verdictDrop {
						dropped[i]++
					}
				}
				return nil
			})
		})
	}
	done.Wait()
	l.must(errors.Join(failed...))
	for i, n := range dropped {
		if n > 0 {
			t.Errorf("runner %d: %d of %d datagrams did not pass", i, n, callers)
		}
	}
}
