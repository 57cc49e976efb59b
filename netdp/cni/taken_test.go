package cni

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// giver is an ipam plugin that gives what a file says, as one whose notes were lost
// may, and writes down for whom it was asked to take something back.
const giver = `#!/bin/sh
dir=%s
case $CNI_COMMAND in
ADD) echo "{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"$(cat $dir/gives)/24\", \"gateway\": \"10.64.7.1\"}]}";;
DEL) echo $CNI_ARGS >> $dir/dels;;
esac
`

// TestTakenAddress: a pod does not start with an address that others have, and what
// was made of its network is taken back.
func TestTakenAddress(t *testing.T) {
	l := newLab(t)
	bin := t.TempDir()
	l.o.BinDirs = append(l.o.BinDirs, bin)
	l.o.Service = func(a netip.Addr) string {
		if a == netip.MustParseAddr("10.96.0.10") {
			return "service kube-system/kube-dns"
		}
		return ""
	}
	l.open()
	l.must(os.WriteFile(filepath.Join(bin, "giver"), fmt.Appendf(nil, giver, l.dir), 0o755))
	l.must(os.WriteFile(filepath.Join(l.o.ConfDir, "10-lab.conflist"), []byte(`{"cniVersion": "1.0.0", "name": "lab", "plugins": [
		{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "giver"}}]}`), 0o600))
	gives := func(addr string) { l.must(os.WriteFile(filepath.Join(l.dir, "gives"), []byte(addr), 0o600)) }
	refused := func(addr string, words ...string) {
		t.Helper()
		gives(addr)
		_, err := l.d.Attach(context.Background(), labPod("b"))
		for _, w := range append(words, `network "lab"`, addr) {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q is not in: %v", w, err)
			}
		}
		dels, _ := os.ReadFile(filepath.Join(l.dir, "dels"))
		if !strings.Contains(string(dels), "K8S_POD_UID=b") {
			t.Errorf("%s was not taken back: %q", addr, dels)
		}
		l.must(os.RemoveAll(filepath.Join(l.dir, "dels")))
		if uids, _ := l.d.Attached(context.Background()); len(uids) != 1 || uids[0] != "a" {
			t.Errorf("attached: %q", uids)
		}
	}
	gives("10.64.7.9")
	a := l.attach("a") // of which the bridge has its address
	refused("10.64.7.9", "pod default/pod-a")
	refused("10.64.7.1", "this host")
	refused("10.96.0.10", "service kube-system/kube-dns")
	l.open()
	refused("10.64.7.9", "pod default/pod-a")
	l.talks(l.host, a)
	l.detach("a")
	l.attach("b") // the address is free again
	l.detach("b")
	l.nothingLeft()
}
