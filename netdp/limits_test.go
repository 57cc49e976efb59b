package netdp

import (
	"strings"
	"testing"
)

func TestSetLimits(t *testing.T) {
	for _, c := range []struct {
		limits map[string]uint32
		want   string // of the error
	}{
		{map[string]uint32{"flows": 1 << 18, "slots": 1 << 10, "policy_rules": 100}, ""},
		{map[string]uint32{"flow": 1 << 18}, "those that can be set are flows, "},
		{map[string]uint32{"node_addrs": 1 << 18}, "needs no other limit"},
		{map[string]uint32{"flows": 0}, "not between 64 and 4194304"},
		{map[string]uint32{"flows": 1<<22 + 1}, "not between 64 and 4194304"},
		{map[string]uint32{"slots": 1000}, "not a power of two"},
	} {
		if err := CheckLimits(c.limits); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.limits, err, c.want)
		}
	}
	l := newLab(t)
	l.opts.SetLimits = map[string]uint32{"flows": 1000, "policy_conns": 2000, "services": 128, "slots": 256, "sources": 300}
	d := l.openUntilEnd()
	for name, want := range map[string]uint32{
		"flows": 1000, "nats": DefaultMaxFlows, "policy_conns": 2000, "services": 128, "service_counts": 128, "slots": 256, "sources": 300,
	} {
		if got := d.maps[name].MaxEntries(); got != want {
			t.Errorf("map %s takes %d, want %d", name, got, want)
		}
	}
	// Numbers of services come from the same limits as the maps.
	for i := range 200 {
		if err := d.SetService(benchService(i, 1)); err != nil {
			if i < 100 {
				t.Errorf("service %d: %v", i, err)
			}
			return
		}
	}
	t.Error("200 services went into a map of 128")
}
