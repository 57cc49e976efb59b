package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/miekg/dns"
)

// Packed is an answer as it is kept: records in wire form, without what differs
// from client to client. It is never changed.
type Packed struct {
	wire    []byte // header, question, records; no OPT
	rcode   int
	records []place
	answers int // of records
	// turn: the answers are turn addresses of one name and of equal length, so
	// that any of them can come first.
	turn int
}

// place is where a record is: its lifetime and its end.
type place struct{ ttl, end uint16 }

// Pack packs an answer. m has one question, whose name must be as long as that
// of the queries it is given to; its OPT record is left out.
func Pack(m *dns.Msg) (*Packed, error) {
	c := *m
	c.Compress, c.Rcode = true, m.Rcode&0xf
	c.Extra = nil
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			c.Extra = append(c.Extra, rr)
		}
	}
	wire, err := c.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack answer: %w", err)
	}
	if len(wire) > math.MaxUint16 {
		return nil, fmt.Errorf("pack answer: %d bytes are more than DNS can carry", len(wire))
	}
	p := &Packed{wire: wire, rcode: m.Rcode, answers: len(c.Answer)}
	return p, p.locate(len(c.Answer) + len(c.Ns) + len(c.Extra))
}

// locate notes where the records are.
func (p *Packed) locate(count int) error {
	at, _ := skipName(p.wire, headerLen) // of no question there are no records either
	at += 4
	p.records = make([]place, 0, count)
	p.turn = p.answers
	for i := range count {
		begin := at
		var ok bool
		if at, ok = skipName(p.wire, at); !ok || at+10 > len(p.wire) {
			return fmt.Errorf("pack answer: record %d is not where it should be", i)
		}
		rrtype := binary.BigEndian.Uint16(p.wire[at:])
		ttl := at + 4
		at += 10 + int(binary.BigEndian.Uint16(p.wire[at+8:]))
		p.records = append(p.records, place{uint16(ttl), uint16(at)})
		if i < p.answers && (rrtype != dns.TypeA && rrtype != dns.TypeAAAA || at-begin != int(p.records[0].end)-p.questionEnd()) {
			p.turn = 0
		}
	}
	return nil
}

func (p *Packed) questionEnd() int {
	end, _ := skipName(p.wire, headerLen)
	return end + 4
}

// Rcode is the answer's code.
func (p *Packed) Rcode() int { return p.rcode }

// Len is about how much memory it takes, in bytes.
func (p *Packed) Len() int { return len(p.wire) + 4*len(p.records) }

// Lifetime is the shortest of all records, in seconds; there may be none.
func (p *Packed) Lifetime() (seconds uint32, ok bool) {
	seconds = math.MaxUint32
	for _, r := range p.records {
		seconds = min(seconds, binary.BigEndian.Uint32(p.wire[r.ttl:]))
	}
	return seconds, len(p.records) > 0
}

// Msg unpacks it, aged by some seconds.
func (p *Packed) Msg(age uint32) (*dns.Msg, error) {
	wire := append([]byte(nil), p.wire...)
	p.age(wire, age)
	m := &dns.Msg{}
	if err := m.Unpack(wire); err != nil {
		return nil, fmt.Errorf("unpack kept answer: %w", err)
	}
	m.Rcode = p.rcode
	return m, nil
}

func (p *Packed) age(wire []byte, seconds uint32) {
	if seconds == 0 {
		return
	}
	for _, r := range p.records {
		if int(r.end) > len(wire) {
			return
		}
		ttl := binary.BigEndian.Uint32(wire[r.ttl:])
		binary.BigEndian.PutUint32(wire[r.ttl:], ttl-min(ttl, seconds))
	}
}

// Give says how an answer is given.
type Give struct {
	Limit int    // of its length in bytes
	Age   uint32 // of its records, in seconds
	Turn  uint32 // which address comes first, where several do
}

// Append appends the answer to a query.
func (p *Packed) Append(dst []byte, q *Query, g Give) []byte {
	start := len(dst)
	limit := g.Limit
	if q.EDNS {
		limit -= optLen
	}
	keep, truncated := p.fit(limit)
	end := p.questionEnd()
	if keep > 0 {
		end = int(p.records[keep-1].end)
	}
	dst = append(dst, p.wire[:end]...)
	out := dst[start:]
	copy(out[headerLen:], q.question)
	if p.turn > 1 && keep >= p.turn {
		p.rotate(out, int(g.Turn%uint32(p.turn)))
	}
	p.age(out, g.Age)
	if keep < len(p.records) {
		recount(out, p.answers, keep, truncated)
	}
	p.patch(out, q, truncated)
	return appendOPT(dst, start, q, p.rcode)
}

// fit is how many records go into a limit. Addresses beside the answer are left
// out in silence; where anything else has to be, only whole answers stay.
func (p *Packed) fit(limit int) (keep int, truncated bool) {
	if len(p.wire) <= limit {
		return len(p.records), false
	}
	required := p.answers + int(binary.BigEndian.Uint16(p.wire[8:]))
	for keep = len(p.records); keep > 0 && int(p.records[keep-1].end) > limit; keep-- {
	}
	if keep >= required {
		return required, false
	}
	return min(keep, p.answers), true
}

func recount(out []byte, answers, keep int, truncated bool) {
	binary.BigEndian.PutUint16(out[6:], uint16(min(answers, keep)))
	if truncated {
		binary.BigEndian.PutUint16(out[8:], 0)
	}
	binary.BigEndian.PutUint16(out[10:], 0)
}

// rotate has the address at an index come first.
func (p *Packed) rotate(out []byte, first int) {
	if first == 0 {
		return
	}
	begin, end := p.questionEnd(), int(p.records[p.answers-1].end)
	size := (end - begin) / p.answers
	n := copy(out[begin:end], p.wire[begin+first*size:end])
	copy(out[begin+n:end], p.wire[begin:begin+first*size])
}

// patch sets what belongs to the client.
func (p *Packed) patch(out []byte, q *Query, truncated bool) {
	binary.BigEndian.PutUint16(out, q.ID)
	flags := binary.BigEndian.Uint16(out[2:]) & (flagAA | flagAD | 0xf)
	if !q.DNSSEC && !q.Authentic {
		flags &^= flagAD // RFC 6840, 5.7
	}
	binary.BigEndian.PutUint16(out[2:], flags|replyFlags(q, truncated))
}

func replyFlags(q *Query, truncated bool) uint16 {
	flags := uint16(flagQR|flagRA) | q.opcode
	if q.desired {
		flags |= flagRD
	}
	if q.NoCheck {
		flags |= flagCD
	}
	if truncated {
		flags |= flagTC
	}
	return flags
}

// appendOPT answers EDNS with EDNS.
func appendOPT(dst []byte, start int, q *Query, rcode int) []byte {
	if !q.EDNS {
		return dst
	}
	flags := uint16(0)
	if q.DNSSEC {
		flags = flagDO
	}
	count := binary.BigEndian.Uint16(dst[start+10:])
	binary.BigEndian.PutUint16(dst[start+10:], count+1)
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, dns.TypeOPT)
	dst = binary.BigEndian.AppendUint16(dst, MaxUDP)
	dst = append(dst, byte(rcode>>4), 0)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	return binary.BigEndian.AppendUint16(dst, 0)
}

// AppendError appends an answer that is nothing but a code.
func AppendError(dst []byte, q *Query, rcode int) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, q.ID)
	dst = binary.BigEndian.AppendUint16(dst, replyFlags(q, false)|uint16(rcode&0xf))
	questions := byte(0)
	if q.question != nil {
		questions = 1
	}
	dst = append(dst, 0, questions, 0, 0, 0, 0, 0, 0)
	dst = append(dst, q.question...)
	return appendOPT(dst, start, q, rcode)
}
