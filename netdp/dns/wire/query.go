package wire

import (
	"encoding/binary"
	"errors"

	"github.com/miekg/dns"
)

const (
	headerLen  = 12
	maxNameLen = 255 // RFC 1035, 2.3.4
	maxLabel   = 63
	optLen     = 11 // an OPT record without options

	flagQR, flagAA, flagTC, flagRD = 1 << 15, 1 << 10, 1 << 9, 1 << 8
	flagRA, flagAD, flagCD         = 1 << 7, 1 << 5, 1 << 4
	opcodeMask                     = 0xf << 11
	flagDO                         = 1 << 15 // in an OPT record's flags

	// MaxUDP is the largest datagram we send and tell clients to send: it fits
	// every path without fragments (DNS flag day 2020).
	MaxUDP = 1232
	// minUDP is what every client takes.
	minUDP = dns.MinMsgSize
)

// ErrIgnore means that the packet is no query and gets no answer: answering an
// answer may go on forever.
var ErrIgnore = errors.New("it is no query")

// Query is one question. It refers to the bytes it was read from.
type Query struct {
	ID    uint16
	Type  uint16
	Class uint16
	// EDNS: the client speaks it. Size is what it takes by UDP.
	EDNS    bool
	Version uint8
	Size    uint16
	// DNSSEC, NoCheck and Authentic are the bits DO, CD and AD.
	DNSSEC, NoCheck, Authentic bool

	desired  bool   // RD
	opcode   uint16 // in its place in the flags
	question []byte // as it came, type and class included; nil if there was none
	lower    [maxNameLen]byte
	nameLen  int
}

// Name is the name asked for in wire form and lower case. It is good until the
// query is read anew.
func (q *Query) Name() []byte { return q.lower[:q.nameLen] }

// Clone is a copy that keeps nothing of the packet it was read from.
func (q *Query) Clone() *Query {
	c := *q
	c.question = append([]byte(nil), q.question...)
	return &c
}

// Read reads a query. The code is not dns.RcodeSuccess for one that has to be
// answered with an error.
func (q *Query) Read(packet []byte) (rcode int, err error) {
	if len(packet) < headerLen {
		return 0, ErrIgnore
	}
	flags := binary.BigEndian.Uint16(packet[2:])
	if flags&flagQR != 0 {
		return 0, ErrIgnore
	}
	q.ID, q.opcode = binary.BigEndian.Uint16(packet), flags&opcodeMask
	q.desired, q.NoCheck, q.Authentic = flags&flagRD != 0, flags&flagCD != 0, flags&flagAD != 0
	q.EDNS, q.DNSSEC, q.Size, q.Version = false, false, minUDP, 0
	q.question, q.nameLen, q.Type, q.Class = nil, 0, 0, 0
	if q.opcode != 0 {
		return dns.RcodeNotImplemented, nil
	}
	count := func(at int) uint16 { return binary.BigEndian.Uint16(packet[at:]) }
	if count(4) != 1 || count(6) != 0 || count(8) != 0 {
		return dns.RcodeFormatError, nil
	}
	end, ok := q.readQuestion(packet)
	if !ok || !q.readAdditional(packet, end, int(count(10))) {
		return dns.RcodeFormatError, nil
	}
	if q.Version != 0 {
		return dns.RcodeBadVers, nil
	}
	return dns.RcodeSuccess, nil
}

// readQuestion reads the one question. A name in it cannot be compressed:
// nothing stands before it that it could refer to.
func (q *Query) readQuestion(packet []byte) (end int, ok bool) {
	at, n := headerLen, 0
	for {
		if at >= len(packet) {
			return 0, false
		}
		size := int(packet[at])
		if size > maxLabel || at+1+size > len(packet) || n+1+size > maxNameLen {
			return 0, false
		}
		q.lower[n] = byte(size)
		for i, c := range packet[at+1 : at+1+size] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[n+1+i] = c
		}
		at, n = at+1+size, n+1+size
		if size == 0 {
			break
		}
	}
	if at+4 > len(packet) {
		return 0, false
	}
	q.nameLen = n
	q.Type, q.Class = binary.BigEndian.Uint16(packet[at:]), binary.BigEndian.Uint16(packet[at+2:])
	q.question = packet[headerLen : at+4]
	return at + 4, true
}

// readAdditional looks for the OPT record; signatures and the like are passed
// over.
func (q *Query) readAdditional(packet []byte, at, count int) bool {
	for range count {
		root := at < len(packet) && packet[at] == 0
		end, ok := skipName(packet, at)
		if !ok || end+10 > len(packet) {
			return false
		}
		fixed := packet[end:]
		if binary.BigEndian.Uint16(fixed) == dns.TypeOPT {
			if !root || q.EDNS {
				return false // RFC 6891, 6.1.1: one at most, of the root
			}
			q.EDNS, q.Version = true, fixed[5]
			q.Size = max(minUDP, binary.BigEndian.Uint16(fixed[2:]))
			q.DNSSEC = binary.BigEndian.Uint16(fixed[6:])&flagDO != 0
		}
		if at = end + 10 + int(binary.BigEndian.Uint16(fixed[8:])); at > len(packet) {
			return false
		}
	}
	return true
}

// skipName is where the name at an offset ends. A pointer ends it.
func skipName(packet []byte, at int) (end int, ok bool) {
	for at < len(packet) {
		switch size := int(packet[at]); {
		case size == 0:
			return at + 1, true
		case size >= 0xc0:
			return at + 2, at+2 <= len(packet)
		case size > maxLabel:
			return 0, false
		default:
			at += 1 + size
		}
	}
	return 0, false
}

// Limit is the longest answer the client takes by UDP.
func (q *Query) Limit() int { return min(int(q.Size), MaxUDP) }
