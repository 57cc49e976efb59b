package netdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

const (
	frontendOutside = 1
	frontendExact   = 2
	frontendSources = 4
	frontendOwn     = 8

	backendGone     = 0
	backendInside   = 1
	backendOutside  = 2
	backendDraining = 4
	backendActive   = backendInside | backendOutside

	rangeDirect = 1
	rangeHost   = 2
	rangeWire   = 4
	rangeOwn    = 8

	maglevChunk = len(bpf.DatapathMaglevChunk{}.Backend)
)

// serviceMaps writes the maps of bpf/layout.h. Each method is one system call.
type serviceMaps struct {
	frontends, services, slots, backends, maglev, sources, counts *ebpf.Map
}

func newServiceMaps(maps map[string]*ebpf.Map) serviceMaps {
	return serviceMaps{
		frontends: maps[bpf.DatapathMapFrontends],
		services:  maps[bpf.DatapathMapServices],
		slots:     maps[bpf.DatapathMapSlots],
		backends:  maps[bpf.DatapathMapBackends],
		maglev:    maps[bpf.DatapathMapMaglev],
		sources:   maps[bpf.DatapathMapSources],
		counts:    maps[bpf.DatapathMapServiceCounts],
	}
}

// wireAddr is an address as the programs keep it: network order, IPv4 mapped.
func wireAddr(a netip.Addr) (out [4]uint32) {
	if !a.IsValid() {
		return out
	}
	b := a.As16()
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func addrFromWire(w [4]uint32) netip.Addr {
	if w == ([4]uint32{}) {
		return netip.Addr{}
	}
	var b [16]byte
	for i, word := range w {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return netip.AddrFrom16(b).Unmap()
}

// rangeKey is a range as the programs keep it; the bits of an IPv4 one count
// those of its mapped form.
func rangeKey(p netip.Prefix) bpf.DatapathRangeKey {
	bits := p.Bits() + 128 - p.Addr().BitLen()
	return bpf.DatapathRangeKey{Bits: uint32(bits), Addr: wireAddr(p.Addr())}
}

// wirePort swaps between a number and its network order.
func wirePort(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func frontendKey(f Frontend, p Proto) bpf.DatapathFrontendKey {
	key := bpf.DatapathFrontendKey{Addr: wireAddr(f.Addr), Port: wirePort(f.Port), Proto: uint8(p)}
	if f.Addr == NodePortIPv6 {
		key.V6 = 1
	}
	return key
}

func frontendOf(key bpf.DatapathFrontendKey) Frontend {
	f := Frontend{Addr: addrFromWire(key.Addr), Port: wirePort(key.Port)}
	if key.V6 != 0 {
		f.Addr = NodePortIPv6
	}
	return f
}

func (m serviceMaps) putFrontend(f face, service uint32) error {
	value := bpf.DatapathFrontend{Service: service}
	if f.outside {
		value.Flags |= frontendOutside
	}
	if f.exact {
		value.Flags |= frontendExact
	}
	if f.filtered {
		value.Flags |= frontendSources
	}
	if f.own {
		value.Flags |= frontendOwn
	}
	return full("write frontend", m.frontends.Update(&f.key, &value, ebpf.UpdateAny))
}

func (m serviceMaps) deleteFrontend(key bpf.DatapathFrontendKey) error {
	return ignoreMissing("delete frontend", m.frontends.Delete(&key))
}

func (m serviceMaps) putService(id uint32, value bpf.DatapathService) error {
	return full("write service", m.services.Update(&id, &value, ebpf.UpdateAny))
}

// putCounts begins anew for the next service of this number.
func (m serviceMaps) putCounts(id uint32, value bpf.DatapathServiceCalls) error {
	return full("write counts of service", m.counts.Update(&id, &value, ebpf.UpdateAny))
}

func (m serviceMaps) putSlots(indexes, backendIDs []uint32) error {
	return putMany("write slots", m.slots, indexes, backendIDs)
}

func (m serviceMaps) putBackends(ids []uint32, values []bpf.DatapathBackend) error {
	return putMany("write backends", m.backends, ids, values)
}

func (m serviceMaps) putMaglev(keys []bpf.DatapathMaglevKey, values []bpf.DatapathMaglevChunk) error {
	return putMany("write maglev table", m.maglev, keys, values)
}

func (m serviceMaps) deleteMaglev(key bpf.DatapathMaglevKey) error {
	return ignoreMissing("delete maglev table", m.maglev.Delete(&key))
}

func (m serviceMaps) putSource(key bpf.DatapathSourceKey) error {
	return full("write source range", m.sources.Update(&key, uint32(1), ebpf.UpdateAny))
}

func (m serviceMaps) deleteSource(key bpf.DatapathSourceKey) error {
	return ignoreMissing("delete source range", m.sources.Delete(&key))
}

// putMany writes one entry as such, since a batch of one costs twice as much.
func putMany[K, V any](what string, m *ebpf.Map, keys []K, values []V) error {
	switch len(keys) {
	case 0:
		return nil
	case 1:
		return full(what, m.Update(unsafe.Pointer(&keys[0]), unsafe.Pointer(&values[0]), ebpf.UpdateAny))
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return full(what, err)
}

func full(what string, err error) error {
	if err != nil {
		mapWriteErrors.Add(1)
	}
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%s: %w", what, ErrFull)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func ignoreMissing(what string, err error) error {
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	mapWriteErrors.Add(1)
	return fmt.Errorf("%s: %w", what, err)
}
