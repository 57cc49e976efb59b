package netdp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// churnEnv holds the Options of a child that TestKilledDaemon kills.
const churnEnv = "SHOAL_NETDP_CHURN"

// TestChurnChild is no test of its own: it attaches and detaches pods and
// changes services until it is killed.
func TestChurnChild(t *testing.T) {
	data := os.Getenv(churnEnv)
	if data == "" {
		t.Skip("only runs as a child of TestKilledDaemon")
	}
	var opts Options
	if err := json.Unmarshal([]byte(data), &opts); err != nil {
		t.Fatal(err)
	}
	opts.Logger = slog.Default()
	d, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("churning")
	for i := 0; ; i++ {
		uid := fmt.Sprint("pod-", rand.IntN(8)) // few, so that each comes and goes often
		if rand.IntN(2) == 0 {
			err = d.Detach(context.Background(), uid)
		} else {
			_, _, err = d.Attach(context.Background(), uid, "default", uid)
		}
		if err != nil {
			t.Fatal(err)
		}
		s := benchService(i%5, rand.IntN(12))
		s.Frontends = append(s.Frontends, Frontend{Port: uint16(30000 + i%5)})
		if i%7 == 0 {
			err = d.DeleteService(s.Key)
		} else {
			err = d.SetService(s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestKilledDaemon(t *testing.T) {
	const kills = 10
	l := newLab(t)
	before := l.traces()
	data, err := json.Marshal(struct {
		Options
		Logger any
	}{Options: l.opts})
	l.must(err)
	t.Cleanup(func() { // when the test ends early
		if d, err := Open(context.Background(), l.opts); err == nil {
			_ = d.Remove()
		}
	})
	for round := range kills {
		l.killWhileChurning(string(data))
		d := l.open()
		uids, err := d.Attached(context.Background())
		l.must(err)
		used := map[netip.Addr]string{}
		for _, uid := range uids {
			ns, ip := l.pod(d, uid)
			if other, ok := used[ip]; ok {
				t.Fatalf("%s and %s both have %s", uid, other, ip)
			}
			used[ip] = uid
			port := fmt.Sprint(":", 8000+round)
			l.serveTCP(ns, port, uid)
			l.ask(l.host, "tcp4", ip.String()+port)
		}
		l.must(d.SyncComplete())
		if services, backends, draining := kernelEntries(t, d); services+backends+draining+usedSlots(t, d) > 0 {
			t.Fatalf("after a sync without services the kernel has %d services, %d backends, %d draining, %d slots",
				services, backends, draining, usedSlots(t, d))
		}
		l.must(d.Close())
	}
	l.must(l.open().Remove())
	if after := l.traces(); !slices.Equal(after, before) {
		t.Errorf("after Remove:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// killWhileChurning starts a child, waits until it works, and kills it at some
// moment.
func (l *lab) killWhileChurning(options string) {
	l.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChurnChild$")
	cmd.Env = append(os.Environ(), churnEnv+"="+options)
	out, err := cmd.StdoutPipe()
	l.must(err)
	l.must(cmd.Start())
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "churning") {
		l.t.Fatalf("child said %q, %v", buf[:n], err)
	}
	time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond) // the moment is meant to be random
	l.must(cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		l.t.Fatal("the child ended by itself")
	}
}
