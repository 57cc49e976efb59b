package netdp

import (
	"context"
	"os"
	"testing"

	"shoal/agent/userns"
)

// A namespace that a user namespace owns is taken as it is, and serves as any.
func TestGivenNamespace(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	owned, err := userns.Make(userns.Length, "net")
	l.must(err)
	defer owned.Close()
	given := owned.Path("net")
	want, err := os.Stat(given)
	l.must(err)
	for range 2 {
		path, _, err := d.AttachTo(context.Background(), "guest", "default", "guest", given, nil)
		l.must(err)
		if got, err := os.Stat(path); err != nil || !os.SameFile(got, want) {
			t.Errorf("another namespace is attached: %v", err)
		}
		ns, err := openNamespace(path)
		l.must(err)
		c, err := dial(ns, "tcp4", serverIP.String()+":80")
		l.must(err)
		if got, err := call(c, "x"); err != nil {
			t.Errorf("call: %q, %v", got, err)
		}
		_ = c.Close()
		ns.close()
		l.must(d.Detach(context.Background(), "guest")) // and again, with what is left in it
	}
	if _, _, err := d.AttachTo(context.Background(), "lost", "default", "lost", "/proc/none", nil); err == nil {
		t.Error("a namespace that is not there is attached")
	}
}
