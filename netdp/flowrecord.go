package netdp

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// FlowKind says what a FlowRecord tells. The words are those of enum
// record_kind in bpf/record.h, and FlowLost.
type FlowKind string

// The kinds of news.
const (
	FlowDrop    FlowKind = "drop"    // a packet was dropped, or a call refused
	FlowConnect FlowKind = "connect" // a socket called a service
	FlowOutside FlowKind = "outside" // another machine called a service
	FlowOpen    FlowKind = "open"    // a pod began to talk: a SYN or a datagram
	FlowClose   FlowKind = "close"   // a pod closed a TCP connection
	FlowLost    FlowKind = "lost"    // Count records were lost here
)

// FlowRecord is one piece of news of the datapath.
type FlowRecord struct {
	Time  time.Time
	Kind  FlowKind
	Proto Proto
	// Src is the zero value for a socket that connects: PodUID, or FromHost,
	// says whose it is.
	Src, Dst netip.AddrPort
	Backend  netip.AddrPort // that the service's address became
	Service  string         // the key of SetService
	Reason   string         // of a drop
	PodUID   string
	FromHost bool
	Count    uint64 // packets or calls of this kind, of the same ends, until now
}

// decodeRecord copies a sample of the ring buffer; false: it is none of ours.
func decodeRecord(sample []byte) (r bpf.DatapathRecord, ok bool) {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	return r, copy(raw, sample) == len(raw)
}

func addrPortFromWire(addr [4]uint32, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addrFromWire(addr), wirePort(port))
}

// monotonicNow is the clock of the programs' times, in nanoseconds.
func monotonicNow() (uint64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(t.Nano()), nil
}

// wallTime is when the monotonic clock showed t, by today's reading of both.
func wallTime(t uint64) time.Time {
	now := time.Now()
	mono, err := monotonicNow()
	if err != nil || t > mono {
		return now
	}
	return now.Add(-time.Duration(mono - t))
}

// recordOf puts names to what the programs tell.
func (d *Datapath) recordOf(key bpf.DatapathRecordKey, at time.Time, count uint64, names *recordNames) FlowRecord {
	out := FlowRecord{
		Time: at, Kind: FlowKind(nameOf(d.kindNames, int(key.Kind))), Proto: Proto(key.Proto),
		Src: addrPortFromWire(key.Src, key.Sport), Dst: addrPortFromWire(key.Dst, key.Dport), Count: count,
		Service: names.service(key.Service),
	}
	if key.Reason != 0 {
		out.Reason = nameOf(d.dropNames, int(key.Reason))
	}
	if key.Netns != 0 {
		out.PodUID, out.FromHost = names.caller(key.Netns)
	}
	return out
}
