package wire

import (
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func query(t testing.TB, m *dns.Msg) *Query {
	t.Helper()
	data, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := &Query{}
	if rcode, err := q.Read(data); err != nil || rcode != dns.RcodeSuccess {
		t.Fatalf("read %v: code %d, %v", m, rcode, err)
	}
	return q
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func parse(t testing.TB, data []byte) *dns.Msg {
	t.Helper()
	m := &dns.Msg{}
	if err := m.Unpack(data); err != nil {
		t.Fatalf("unpack %x: %v", data, err)
	}
	return m
}

// addresses is an answer of n of them.
func addresses(name string, n int) *dns.Msg {
	m := question(name, dns.TypeA)
	m.Response, m.Authoritative = true, true
	for i := range n {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.IPv4(10, 0, byte(i>>8), byte(i))})
	}
	return m
}

func pack(t testing.TB, m *dns.Msg) *Packed {
	t.Helper()
	p, err := Pack(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	m := question("WwW.Example.Com.", dns.TypeAAAA)
	m.SetEdns0(4000, true)
	m.CheckingDisabled = true
	q := query(t, m)
	if text, err := Text(q.Name()); err != nil || text != "www.example.com." {
		t.Errorf("name %q, %v", text, err)
	}
	if q.ID != m.Id || q.Type != dns.TypeAAAA || q.Class != dns.ClassINET || !q.EDNS || !q.DNSSEC || !q.NoCheck || q.Size != 4000 || q.Limit() != MaxUDP {
		t.Errorf("read %+v", q)
	}
	if q = query(t, question(".", dns.TypeNS)); q.EDNS || q.DNSSEC || q.Limit() != dns.MinMsgSize || len(q.Name()) != 1 {
		t.Errorf("read %+v", q)
	}
}

func TestReadRefuses(t *testing.T) {
	bad := question("a.", dns.TypeA)
	bad.SetEdns0(512, false)
	bad.IsEdns0().SetVersion(1)
	two := question("a.", dns.TypeA)
	two.SetEdns0(512, false)
	two.SetEdns0(512, false)
	none := &dns.Msg{}
	update := new(dns.Msg).SetUpdate("a.")
	answer := question("a.", dns.TypeA)
	answer.Response = true
	for name, c := range map[string]struct {
		m      *dns.Msg
		rcode  int
		ignore bool
	}{
		"EDNS 1":      {m: bad, rcode: dns.RcodeBadVers},
		"two OPTs":    {m: two, rcode: dns.RcodeFormatError},
		"no question": {m: none, rcode: dns.RcodeFormatError},
		"an update":   {m: update, rcode: dns.RcodeNotImplemented},
		"an answer":   {m: answer, ignore: true},
	} {
		data, err := c.m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q := &Query{}
		rcode, err := q.Read(data)
		if rcode != c.rcode || (err != nil) != c.ignore {
			t.Errorf("%s: code %d, %v", name, rcode, err)
		}
		if c.ignore {
			continue
		}
		if m := parse(t, AppendError(nil, q, rcode)); m.Rcode != c.rcode || m.Id != c.m.Id || !m.Response || m.Opcode != c.m.Opcode {
			t.Errorf("%s: answered %v", name, m)
		}
	}
}

func TestAppend(t *testing.T) {
	p := pack(t, addresses("www.example.com.", 3))
	ask := question("WWW.example.COM.", dns.TypeA)
	ask.SetEdns0(1232, true)
	q := query(t, ask)
	first := map[string]bool{}
	for turn := range uint32(3) {
		m := parse(t, p.Append(nil, q, Give{Limit: q.Limit(), Age: 7, Turn: turn}))
		if m.Id != ask.Id || !m.Response || !m.Authoritative || !m.RecursionDesired || !m.RecursionAvailable || m.Truncated || len(m.Answer) != 3 {
			t.Fatalf("answered %v", m)
		}
		if m.Question[0].Name != "WWW.example.COM." || m.Answer[2].Header().Name != "WWW.example.COM." || m.Answer[1].Header().Ttl != 23 {
			t.Errorf("answered %v", m)
		}
		if o := m.IsEdns0(); o == nil || !o.Do() || o.UDPSize() != MaxUDP {
			t.Errorf("OPT %v", o)
		}
		first[m.Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != 3 {
		t.Errorf("first came only %v", first)
	}
	if m := parse(t, p.Append(nil, q, Give{Limit: 1232, Age: 1000})); m.Answer[0].Header().Ttl != 0 {
		t.Errorf("an old answer has ttl %d", m.Answer[0].Header().Ttl)
	}
	if s, ok := p.Lifetime(); s != 30 || !ok {
		t.Errorf("lifetime %d", s)
	}
}

func TestTruncation(t *testing.T) {
	name := "www.example.com."
	full := addresses(name, 200)
	p := pack(t, full)
	for _, size := range []uint16{0, 512, 600, 1232, 4096} {
		ask := question(name, dns.TypeA)
		if size > 0 {
			ask.SetEdns0(size, false)
		}
		q := query(t, ask)
		data := p.Append(nil, q, Give{Limit: q.Limit()})
		m := parse(t, data)
		if len(data) > q.Limit() || !m.Truncated || len(m.Answer) == 0 || len(data)+32 < q.Limit() {
			t.Errorf("size %d: %d bytes, %d records, truncated %v", size, len(data), len(m.Answer), m.Truncated)
		}
		if m = parse(t, p.Append(nil, q, Give{Limit: 65535})); m.Truncated || len(m.Answer) != 200 {
			t.Errorf("by TCP: %d records, truncated %v", len(m.Answer), m.Truncated)
		}
	}
	beside := addresses(name, 2)
	beside.Extra = addresses("other.example.com.", 200).Answer
	q := query(t, question(name, dns.TypeA))
	if m := parse(t, pack(t, beside).Append(nil, q, Give{Limit: q.Limit()})); m.Truncated || len(m.Answer) != 2 || len(m.Extra) != 0 {
		t.Errorf("what is beside the answer does not fit: %d and %d records, truncated %v", len(m.Answer), len(m.Extra), m.Truncated)
	}
}

func TestNames(t *testing.T) {
	for _, text := range []string{".", "a.", "www.example.com.", strings.Repeat("a.", 120)} {
		name, err := FromText(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Text(name); err != nil || got != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	if _, err := FromText(strings.Repeat("a.", 200)); err == nil {
		t.Error("a name of 400 bytes was taken")
	}
}

// FuzzRead: nothing that comes breaks the server, and what is read is what
// miekg/dns reads.
func FuzzRead(f *testing.F) {
	for _, m := range []*dns.Msg{question("a.b.", dns.TypeA), question(".", dns.TypeANY), new(dns.Msg).SetEdns0(512, true)} {
		data, _ := m.Pack()
		f.Add(data)
		f.Add(append(data, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0))
	}
	answer := pack(f, addresses("x.", 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		q := &Query{}
		rcode, err := q.Read(data)
		if err != nil {
			return
		}
		if m := parse(t, AppendError(nil, q, rcode)); m.Rcode != rcode || m.Id != q.ID {
			t.Fatalf("error %d answered as %v", rcode, m)
		}
		if rcode != dns.RcodeSuccess {
			return
		}
		m := &dns.Msg{}
		if err := m.Unpack(data); err == nil {
			if text, err := Text(q.Name()); err != nil || !strings.EqualFold(text, m.Question[0].Name) || m.Question[0].Qtype != q.Type {
				t.Fatalf("read %q type %d (%v) of %v", text, q.Type, err, m)
			}
		}
		if len(q.Name()) == 3 { // as long as the answer's
			out := answer.Append(nil, q, Give{Limit: q.Limit(), Age: 1, Turn: 5})
			if len(out) > q.Limit() {
				t.Fatalf("%d bytes for a limit of %d", len(out), q.Limit())
			}
			parse(t, out)
		}
	})
}
