package netdp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

// FreePorts deletes the frontends at this host's own addresses whose ports keep
// says are the daemon's own. It is for before Open: the programs of an earlier
// daemon, which may not have known that, would refuse the ports to this one, and
// send those who call it elsewhere. bpffsDir is that of Options. Maps of other
// layouts are left as they are: Open carries them over. None is no error.
func FreePorts(bpffsDir string, keep func(Proto, uint16) bool) error {
	p := pins{dir: bpffsDir}
	found, err := names(p.mapsDir())
	if err != nil {
		return err
	}
	for _, name := range found {
		if !strings.HasPrefix(name, bpf.DatapathMapFrontends+"-") {
			continue
		}
		if err := freePorts(p.mapPath(name), keep); err != nil {
			return fmt.Errorf("free ports in map %s: %w", name, err)
		}
	}
	return nil
}

func freePorts(pin string, keep func(Proto, uint16) bool) error {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	var key bpf.DatapathFrontendKey
	var value bpf.DatapathFrontend
	if int(m.KeySize()) != binary.Size(key) || int(m.ValueSize()) != binary.Size(value) {
		return nil
	}
	var own []bpf.DatapathFrontendKey
	err = readMap(m, func(key bpf.DatapathFrontendKey, value bpf.DatapathFrontend) {
		f := frontendOf(key)
		here := f.nodePort() || f.Addr.IsUnspecified() || f.Addr.IsLoopback() || value.Flags&frontendOwn != 0
		if here && keep(Proto(key.Proto), f.Port) {
			own = append(own, key)
		}
	})
	if err != nil {
		return fmt.Errorf("read frontends: %w", err)
	}
	maps := serviceMaps{frontends: m}
	for _, key := range own {
		if err := maps.deleteFrontend(key); err != nil {
			return err
		}
	}
	return nil
}
