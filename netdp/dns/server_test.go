package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/netdp/dns/forward"
	"shoal/netdp/dns/records"
	"shoal/test/eventually"
)

// upstream is a real server that counts what it is asked.
type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int64
}

// startUpstream serves with handle by UDP and TCP on one port.
func startUpstream(t *testing.T, handle func(w dns.ResponseWriter, m *dns.Msg)) *upstream {
	t.Helper()
	u := &upstream{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		u.asked.Add(1)
		handle(w, m)
	})
	var stream net.Listener
	var packets net.PacketConn
	eventually.True(t, "a port that is free for both", func() bool {
		var err error
		if stream, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		u.addr = netip.MustParseAddrPort(stream.Addr().String())
		if packets, err = net.ListenPacket("udp", u.addr.String()); err != nil {
			_ = stream.Close() // another program's
		}
		return err == nil
	})
	for _, s := range []*dns.Server{{Listener: stream, Handler: handler}, {PacketConn: packets, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return u
}

// internet answers names by what they are called.
func internet(w dns.ResponseWriter, m *dns.Msg) {
	r := new(dns.Msg).SetReply(m)
	name := m.Question[0].Name
	header := dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}
	switch {
	case strings.HasPrefix(name, "big."):
		for i := range 300 {
			r.Answer = append(r.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if w.RemoteAddr().Network() == "udp" {
			r.Truncate(512)
		}
	case strings.HasPrefix(name, "missing."):
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.example.", Mbox: "root.example.", Minttl: 30}}
	case strings.HasPrefix(name, "broken."):
		r.Rcode = dns.RcodeServerFailure
	case m.Question[0].Qtype == dns.TypeA:
		r.Answer = append(r.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)})
	}
	_ = w.WriteMsg(r)
}

type bed struct {
	t      *testing.T
	index  *records.Index
	server *Server
	synced atomic.Bool
	stop   context.CancelFunc
	done   chan error
}

// start serves a small cell that asks these servers for all else.
func start(t *testing.T, upstreams ...netip.AddrPort) *bed {
	t.Helper()
	var stubs []forward.Stub
	if len(upstreams) > 0 {
		var list []string
		for _, u := range upstreams {
			list = append(list, u.String())
		}
		var err error
		if stubs, err = forward.ParseStubs([]string{"example=" + strings.Join(list, ",")}); err != nil {
			t.Fatal(err)
		}
	}
	b := &bed{t: t, index: records.New("cluster.local", netip.MustParsePrefix("10.0.0.0/16")), done: make(chan error, 1)}
	b.synced.Store(true)
	ready := true
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.3.1"}}
	b.index.SetService(web, nil)
	many := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	for i := range 200 {
		many.Endpoints = append(many.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.64.0.%d", i)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	b.index.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "many"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}},
		[]*discoveryv1.EndpointSlice{many})
	for alias, to := range map[string]string{"out": "www.example", "in": "web.default.svc.cluster.local", "ring": "ring.default.svc.cluster.local", "lost": "missing.example"} {
		b.index.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: alias}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: to}}, nil)
	}
	log := slog.New(slog.DiscardHandler)
	f := forward.New(forward.Options{ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Own: func(netip.Addr) bool { return false }, Stubs: stubs, Logger: log})
	loopback := netip.MustParseAddr("127.0.0.1")
	var err error
	b.server, err = Listen(t.Context(), Options{Address: loopback, Index: b.index, Forward: f, Synced: b.synced.Load,
		Allowed: func(a netip.Addr) bool { return a == loopback }, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	go func() { b.done <- b.server.Run(ctx) }()
	t.Cleanup(func() {
		b.stop()
		if err := <-b.done; err != nil {
			t.Error(err)
		}
		f.Close()
	})
	return b
}

func (b *bed) ask(network, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	b.t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	for _, f := range change {
		f(m)
	}
	client := &dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := client.Exchange(m, b.server.Addr().String())
	if err != nil {
		b.t.Fatalf("ask for %s by %s: %v", name, network, err)
	}
	return r
}

func TestCell(t *testing.T) {
	b := start(t)
	for _, network := range []string{"udp", "tcp"} {
		for name, want := range map[string]struct {
			rcode, answers int
			authority      bool
		}{
			"web.default.svc.cluster.local.":    {dns.RcodeSuccess, 1, false},
			"WEB.Default.svc.cluster.LOCAL.":    {dns.RcodeSuccess, 1, false},
			"in.default.svc.cluster.local.":     {dns.RcodeSuccess, 2, false},
			"nobody.default.svc.cluster.local.": {dns.RcodeNameError, 0, true},
			"cluster.local.":                    {dns.RcodeSuccess, 0, true},
			"ring.default.svc.cluster.local.":   {dns.RcodeServerFailure, 9, false},
			`a\.b\000.svc.cluster.local.`:       {dns.RcodeNameError, 0, true},
			"www.example.":                      {dns.RcodeServerFailure, 0, false}, // there is nobody to ask
		} {
			r := b.ask(network, name, dns.TypeA)
			if r.Rcode != want.rcode || len(r.Answer) != want.answers || (len(r.Ns) == 1) != want.authority || !r.RecursionAvailable {
				t.Errorf("%s by %s: %v", name, network, r)
			}
		}
		if r := b.ask(network, "web.default.svc.cluster.local.", dns.TypeANY); r.Rcode != dns.RcodeNotImplemented {
			t.Errorf("ANY: %v", r)
		}
		if r := b.ask(network, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }); r.Rcode != dns.RcodeRefused {
			t.Errorf("CHAOS: %v", r)
		}
	}
	b.index.DeleteService("default", "web")
	if r := b.ask("udp", "web.default.svc.cluster.local.", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("a service that is gone: %v", r)
	}
}

func TestTruncated(t *testing.T) {
	b := start(t)
	const many = "many.default.svc.cluster.local."
	r := b.ask("udp", many, dns.TypeA)
	r.Compress = true // as it came
	if !r.Truncated || len(r.Answer) == 0 || r.Len() > dns.MinMsgSize {
		t.Errorf("200 addresses by UDP: %d, truncated %v, %d bytes", len(r.Answer), r.Truncated, r.Len())
	}
	if r := b.ask("tcp", many, dns.TypeA); r.Truncated || len(r.Answer) != 200 {
		t.Errorf("200 addresses by TCP: %d, truncated %v", len(r.Answer), r.Truncated)
	}
}

// TestNotSynced: what is not known yet is no lasting "no".
func TestNotSynced(t *testing.T) {
	b := start(t)
	b.synced.Store(false)
	for name, rcode := range map[string]int{
		"web.default.svc.cluster.local.": dns.RcodeSuccess, "soon.default.svc.cluster.local.": dns.RcodeServerFailure, "2.3.0.10.in-addr.arpa.": dns.RcodeServerFailure,
	} {
		if r := b.ask("udp", name, dns.TypeA); r.Rcode != rcode {
			t.Errorf("%s: %v", name, r)
		}
	}
	b.synced.Store(true)
	if r := b.ask("udp", "soon.default.svc.cluster.local.", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("after: %v", r)
	}
}

func TestForward(t *testing.T) {
	up := startUpstream(t, internet)
	b := start(t, up.addr)
	for range 3 {
		for _, network := range []string{"udp", "tcp"} {
			if r := b.ask(network, "wWw.Example.", dns.TypeA); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || r.Authoritative || r.Question[0].Name != "wWw.Example." {
				t.Errorf("by %s: %v", network, r)
			}
			if r := b.ask(network, "missing.example.", dns.TypeA); r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 {
				t.Errorf("by %s: %v", network, r)
			}
			if r := b.ask(network, "out.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 2 || r.Answer[0].Header().Rrtype != dns.TypeCNAME {
				t.Errorf("by %s: %v", network, r)
			}
			if r := b.ask(network, "lost.default.svc.cluster.local.", dns.TypeA); r.Rcode != dns.RcodeNameError || len(r.Answer) != 1 {
				t.Errorf("by %s: %v", network, r)
			}
		}
	}
	if n := up.asked.Load(); n != 2 {
		t.Errorf("two names were asked for %d times", n)
	}
	// An answer that needs TCP on the way here needs it on the way on, or not.
	if r := b.ask("udp", "big.example.", dns.TypeA); !r.Truncated {
		t.Errorf("big by UDP: %v", r)
	}
	if r := b.ask("tcp", "big.example.", dns.TypeA); r.Truncated || len(r.Answer) != 300 {
		t.Errorf("big by TCP: %d answers", len(r.Answer))
	}
	if r := b.ask("udp", "broken.example.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("broken: %v", r)
	}
	if hits := b.count(t, "shoal_dns_cache_hits_total"); hits == "" || strings.HasSuffix(hits, " 0") {
		t.Errorf("hits: %q", hits)
	}
}

// count is a metric's line.
func (b *bed) count(t *testing.T, name string) string {
	t.Helper()
	for _, c := range b.server.Metrics() {
		data, err := testutil.CollectAndFormat(c, expfmt.TypeTextPlain, name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			if bytes.HasPrefix(line, []byte(name)) {
				return strings.TrimSpace(string(line))
			}
		}
	}
	return ""
}

// TestDeadUpstream: one that is silent does not keep the next from answering, and is
// asked last then. Where all are silent that is said before resolvers give up.
func TestDeadUpstream(t *testing.T) {
	dead := startUpstream(t, func(dns.ResponseWriter, *dns.Msg) {})
	live := startUpstream(t, internet)
	b := start(t, dead.addr, live.addr)
	for i := range 3 {
		if r := b.ask("udp", fmt.Sprintf("n%d.example.", i), dns.TypeA); r.Rcode != dns.RcodeSuccess {
			t.Errorf("name %d: %v", i, r)
		}
	}
	if n := dead.asked.Load(); n == 0 || n == 3 {
		t.Errorf("the dead server was asked %d times of 3", n)
	}
	b = start(t, dead.addr)
	if r := b.ask("udp", "www.example.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("nobody is there: %v", r)
	}
}

// TestOneFlight: a name that many ask for at once is asked for once.
func TestOneFlight(t *testing.T) {
	release := make(chan struct{})
	up := startUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		internet(w, m)
	})
	b := start(t, up.addr)
	const askers = 50
	answers := make(chan int, askers)
	for range askers {
		go func() {
			client := &dns.Client{Timeout: 10 * time.Second}
			r, _, err := client.Exchange(new(dns.Msg).SetQuestion("slow.example.", dns.TypeA), b.server.Addr().String())
			if err != nil {
				answers <- -1
				return
			}
			answers <- r.Rcode
		}()
	}
	for len(b.server.waiting) < askers {
		time.Sleep(time.Millisecond)
	}
	close(release)
	for range askers {
		if rcode := <-answers; rcode != dns.RcodeSuccess {
			t.Errorf("answered %d", rcode)
		}
	}
	n := up.asked.Load()
	if n > 2 { // once more when it is slow
		t.Errorf("asked %d times", n)
	}
	// Who found nothing in the cache and comes when the answer has come.
	late := forward.Question{Name: "\x04slow\x07example\x00", Type: dns.TypeA}
	if _, err := b.server.o.Forward.Ask(t.Context(), late); err != nil || up.asked.Load() != n {
		t.Errorf("asked %d times, and %d after the answer: %v", n, up.asked.Load()-n, err)
	}
}

// TestStop: a question that waits does not hold up the end.
func TestStop(t *testing.T) {
	asked := make(chan struct{}, 8)
	up := startUpstream(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	b := start(t, up.addr)
	conn, err := net.Dial("tcp", b.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...)); err != nil {
		t.Fatal(err)
	}
	<-asked
	b.stop()
	err = <-b.done
	b.done <- err
	if err != nil {
		t.Error(err)
	}
}

// TestStreams: one client's connections are bounded, and so is a question.
func TestStreams(t *testing.T) {
	b := start(t)
	for range maxStreamsEach {
		conn, err := net.Dial("tcp", b.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		co := dns.Conn{Conn: conn}
		if err := co.WriteMsg(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := co.ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := net.Dial("tcp", b.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("one connection too many got %d bytes", n)
	}
	if r := b.ask("udp", "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("by UDP meanwhile: %v", r)
	}
}

// TestPortTaken: another program's port is left alone.
func TestPortTaken(t *testing.T) {
	a, b := start(t), start(t)
	if a.server.Addr() == b.server.Addr() {
		t.Errorf("two servers at %v", a.server.Addr())
	}
	for _, s := range []*bed{a, b} {
		if r := s.ask("udp", "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
			t.Errorf("%v", r)
		}
	}
}

// TestResolvConf: the file is read again when it changes, and never sends us to
// ourselves.
func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	own := netip.MustParseAddr("127.0.0.77")
	f := forward.New(forward.Options{ResolvConf: path, Own: func(a netip.Addr) bool { return a == own }, Logger: slog.New(slog.DiscardHandler)})
	defer f.Close()
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.77\nnameserver nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Resolve(t.Context(), forward.Question{Name: "\x03www\x07example\x00", Type: dns.TypeA}); err == nil || !strings.Contains(err.Error(), forward.ErrNoServer.Error()) {
		t.Errorf("asked ourselves: %v", err)
	}
}
