package cli

import (
	"strings"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
)

func TestPrintEncryption(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	seen := &v1.Status{Encryption: v1.EncryptionWireGuard, Peers: []v1.Peer{
		{Name: "host1", State: v1.Alive}, {Name: "host2", State: v1.Alive}, {Name: "host3", State: "failed"}}}
	paths := []v1.Path{{Host: "host2", LastHandshake: now.Add(-90 * time.Second)}, {Host: "host3"}}
	kernel := &v1.Status{Time: now, EncryptedBy: "the kernel", Paths: paths}
	for name, test := range map[string]struct {
		second   *v1.Status
		want     string
		asChosen bool
	}{
		"all do":        {&v1.Status{Time: now, EncryptedBy: "wireguard-go"}, "host2   alive    by wireguard-go   0 of 0   -", true},
		"one does not":  {&v1.Status{Time: now}, "host2   alive    no              0 of 0   -         *", false},
		"one is silent": {nil, "host2   alive    ?               -        -", true},
	} {
		var out strings.Builder
		asChosen, err := printEncryption(&out, seen, []*v1.Status{kernel, test.second, nil})
		if err != nil || asChosen != test.asChosen {
			t.Errorf("%s: as chosen %t, %v", name, asChosen, err)
		}
		for _, want := range []string{"host1   alive    by the kernel", "1 of 2", test.want, "host3   failed   ?"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, out.String())
			}
		}
	}
}
