package forward

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"shoal/netdp/dns/wire"
)

func answerOf(t *testing.T, m *dns.Msg) *wire.Packed {
	t.Helper()
	p, err := wire.Pack(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func header(rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: "a.example.", Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// TestLifetime: RFC 2308, and the limits.
func TestLifetime(t *testing.T) {
	a := func(ttl uint32) dns.RR { return &dns.A{Hdr: header(dns.TypeA, ttl), A: net.IPv4(1, 2, 3, 4)} }
	cname := &dns.CNAME{Hdr: header(dns.TypeCNAME, 40), Target: "b.example."}
	soa := func(ttl, minimum uint32) dns.RR {
		return &dns.SOA{Hdr: header(dns.TypeSOA, ttl), Ns: ".", Mbox: ".", Minttl: minimum}
	}
	for name, c := range map[string]struct {
		rcode      int
		answer, ns []dns.RR
		truncated  bool
		want       time.Duration
	}{
		"the shortest counts":        {answer: []dns.RR{cname, a(30)}, want: 30 * time.Second},
		"what is beside it too":      {answer: []dns.RR{a(30)}, ns: []dns.RR{soa(20, 5)}, want: 20 * time.Second},
		"not for now":                {answer: []dns.RR{a(0)}},
		"an hour at most":            {answer: []dns.RR{a(90_000)}, want: time.Hour},
		"no name: the SOA's minimum": {rcode: dns.RcodeNameError, ns: []dns.RR{soa(60, 7)}, want: 7 * time.Second},
		"no name: the SOA's own":     {rcode: dns.RcodeNameError, ns: []dns.RR{soa(6, 70)}, want: 6 * time.Second},
		"no name, half an hour":      {rcode: dns.RcodeNameError, ns: []dns.RR{soa(90_000, 90_000)}, want: 30 * time.Minute},
		"no name without an SOA":     {rcode: dns.RcodeNameError},
		"no data":                    {ns: []dns.RR{soa(60, 8)}, want: 8 * time.Second},
		"an alias of no data":        {answer: []dns.RR{cname}, ns: []dns.RR{soa(60, 9)}, want: 9 * time.Second},
		"an alias of nothing known":  {answer: []dns.RR{cname}},
		"a failure":                  {rcode: dns.RcodeServerFailure, ns: []dns.RR{soa(60, 60)}},
		"cut off":                    {answer: []dns.RR{a(30)}, truncated: true},
	} {
		m := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
		m.Rcode, m.Answer, m.Ns, m.Truncated = c.rcode, c.answer, c.ns, c.truncated
		if got := lifetime(m, answerOf(t, m)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestCacheBounds: answers go by number and by size, the one used longest ago
// first, and when their time is over.
func TestCacheBounds(t *testing.T) {
	c, now := newCache(), time.Unix(1000, 0)
	m := new(dns.Msg).SetQuestion("a.example.", dns.TypeTXT)
	m.Answer = []dns.RR{&dns.TXT{Hdr: header(dns.TypeTXT, 60), Txt: []string{"x"}}}
	small := answerOf(t, m)
	m.Answer = []dns.RR{&dns.TXT{Hdr: header(dns.TypeTXT, 60), Txt: slices.Repeat([]string{strings.Repeat("x", 250)}, 200)}}
	large := answerOf(t, m)
	name := func(i int) Question { return Question{Name: string(rune(i)), Type: dns.TypeTXT} }
	has := func(i int, at time.Time) bool {
		q := name(i)
		_, _, ok := c.get([]byte(q.Name), q, at)
		return ok
	}
	for i := range maxAnswers {
		c.put(name(i), small, time.Minute, now.Add(time.Hour), now)
	}
	has(0, now) // used last
	c.put(name(maxAnswers), small, time.Minute, now.Add(time.Hour), now)
	if c.len() != maxAnswers || !has(0, now) || has(1, now) {
		t.Errorf("%d answers; the first is there: %v, the second: %v", c.len(), has(0, now), has(1, now))
	}
	for i := range 1000 {
		c.put(name(i), large, time.Minute, now.Add(time.Hour), now)
	}
	if c.bytes > maxAnswerBytes || c.len() == 0 {
		t.Errorf("%d bytes in %d answers", c.bytes, c.len())
	}
	if _, age, ok := c.get([]byte(name(999).Name), name(999), now.Add(59*time.Second)); !ok || age != 59 {
		t.Errorf("age %d, %v", age, ok)
	}
	left := c.len()
	if _, _, ok := c.old(name(999), now.Add(59*time.Second)); ok {
		t.Error("it is old before its time")
	}
	if _, _, ok := c.old(name(999), now.Add(time.Minute)); has(999, now.Add(time.Minute)) || !ok {
		t.Error("it outlived its time, or is not kept for need")
	}
	if has(999, now.Add(time.Hour)) || c.len() != left-1 {
		t.Error("it is kept for good")
	}
}

func TestStubs(t *testing.T) {
	stubs, err := ParseStubs([]string{"Example.org.=10.1.2.3, 10.1.2.4:5353", "deep.example.org=[fd00::1]:53,fd00::2"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"example.org": "example.org", "www.example.org": "example.org", "a.deep.example.org": "deep.example.org",
		"notexample.org": "", "org": "", ".": "", `www\.example.org`: "",
	} {
		packed, err := wire.FromText(name)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if i := slices.IndexFunc(stubs, func(s Stub) bool { return s.covers(string(packed)) }); i >= 0 {
			got = stubs[i].Domain
		}
		if got != want {
			t.Errorf("%s is of %q, want %q", name, got, want)
		}
	}
	if want := []netip.AddrPort{netip.MustParseAddrPort("10.1.2.3:53"), netip.MustParseAddrPort("10.1.2.4:5353")}; !slices.Equal(stubs[1].Servers, want) {
		t.Errorf("servers %v", stubs[1].Servers)
	}
	for _, bad := range []string{"", "=10.1.2.3", "example.org", "example.org=", "example.org=host", strings.Repeat("a", 64) + "=10.1.2.3", "a=1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1"} {
		if _, err := ParseStubs([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := ParseStubs([]string{"a=10.1.2.3", "A.=10.1.2.4"}); err == nil {
		t.Error("a domain was taken twice")
	}
}

// TestResolvConf: a changed file counts, ourselves do not.
func TestResolvConf(t *testing.T) {
	path, now := filepath.Join(t.TempDir(), "resolv.conf"), time.Unix(1000, 0)
	r := &resolvConf{path: path, own: func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.10") }, log: slog.New(slog.DiscardHandler)}
	says := func(want ...string) {
		t.Helper()
		now = now.Add(lookEvery)
		var got []string
		for _, s := range r.get(now) {
			got = append(got, s.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("servers %v, want %v", got, want)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says()
	write("nameserver 10.0.0.10\nnameserver 192.0.2.1\nnameserver fd00::1\nsearch example.org\n")
	says("192.0.2.1:53", "[fd00::1]:53")
	write("nameserver 192.0.2.22\n")
	says("192.0.2.22:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	says()
}

// TestStale: what was kept is given past its time while the server fails (RFC 8767),
// which is asked again after a while; but not for ever, and not that there is nothing.
func TestStale(t *testing.T) {
	var fails atomic.Bool
	var asked atomic.Int64
	server := &dns.Server{Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		asked.Add(1)
		r := new(dns.Msg).SetReply(m)
		switch {
		case fails.Load():
			r.Rcode = dns.RcodeServerFailure
		case m.Question[0].Name == "missing.example.":
			r.Rcode = dns.RcodeNameError
			r.Ns = []dns.RR{&dns.SOA{Hdr: header(dns.TypeSOA, 60), Ns: ".", Mbox: ".", Minttl: 60}}
		default:
			r.Answer = []dns.RR{&dns.A{Hdr: header(dns.TypeA, 60), A: net.IPv4(192, 0, 2, 1)}}
		}
		_ = w.WriteMsg(r)
	})}
	var err error
	if server.PacketConn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	stubs, err := ParseStubs([]string{"example=" + server.PacketConn.LocalAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	f := New(Options{Stubs: stubs, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(f.Close)
	now := time.Unix(1_000_000, 0)
	var later atomic.Int64
	f.now = func() time.Time { return now.Add(time.Duration(later.Load())) }
	a, missing := Question{Name: "\x01a\x07example\x00", Type: dns.TypeA}, Question{Name: "\x07missing\x07example\x00", Type: dns.TypeA}
	for _, step := range []struct {
		what   string
		of     Question
		after  time.Duration
		fails  bool
		asks   bool
		rcode  int
		ttl    uint32
		stales float64
	}{
		{"kept", a, 0, false, true, dns.RcodeSuccess, 60, 0},
		{"still good", a, 59 * time.Second, true, false, dns.RcodeSuccess, 1, 0},
		{"stale", a, time.Second, true, true, dns.RcodeSuccess, 30, 1},
		{"stale, not asked again", a, 29 * time.Second, true, false, dns.RcodeSuccess, 1, 1},
		{"stale, asked again", a, time.Second, true, true, dns.RcodeSuccess, 30, 2},
		{"it answers again", a, 30 * time.Second, false, true, dns.RcodeSuccess, 60, 2},
		{"too old", a, time.Minute + staleFor, true, true, dns.RcodeServerFailure, 0, 2},
		{"nothing", missing, 0, false, true, dns.RcodeNameError, 0, 2},
		{"nothing is not said past its time", missing, time.Minute, true, true, dns.RcodeServerFailure, 0, 2},
	} {
		later.Add(int64(step.after))
		fails.Store(step.fails)
		before := asked.Load()
		m, err := f.Resolve(t.Context(), step.of)
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		var ttl uint32
		if len(m.Answer) > 0 {
			ttl = m.Answer[0].Header().Ttl
		}
		if asks := asked.Load() > before; m.Rcode != step.rcode || ttl != step.ttl || asks != step.asks {
			t.Errorf("%s: code %d, lifetime %d, asked: %t", step.what, m.Rcode, ttl, asks)
		}
		if got := testutil.ToFloat64(f.metrics.Stale); got != step.stales {
			t.Errorf("%s: %v were counted", step.what, got)
		}
	}
}
