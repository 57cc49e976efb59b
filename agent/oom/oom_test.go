package oom

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const group = "6,905,1234567,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/c,task=dd,pid=4711,uid=0\n"
	for name, test := range map[string]struct {
		record string
		want   Kill
		ok     bool
	}{
		"the host": {"6,905,1234567,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/pod1/c,task=java,pid=42,uid=1000\n SUBSYSTEM=x\n",
			Kill{"java", 42, true}, true},
		"a node of memory": {"6,1,2,-;oom-kill:constraint=CONSTRAINT_CPUSET,nodemask=0,cpuset=a,mems_allowed=0,global_oom,task_memcg=/,task=a b,pid=1,uid=0\n",
			Kill{"a b", 1, true}, true},
		"a group":              {group, Kill{"dd", 4711, false}, true},
		"a name with commas":   {"6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=x,pid=1,uid=0,pid=77,uid=0\n", Kill{"x,pid=1,uid=0", 77, true}, true},
		"a group of that name": {"6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,global_oom,task_memcg=/a,global_oom,task=dd,pid=7,uid=0\n", Kill{"dd", 7, false}, true},
		"a program's words":    {"14" + group[1:], Kill{}, false},
		"another record":       {"4,1,2,-;dd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n", Kill{}, false},
		"a quoted one":         {"4,1,2,-;audit: " + group, Kill{}, false},
		"nothing":              {"", Kill{}, false},
		"no number":            {"6,1,2,-;oom-kill:constraint=C,n,global_oom,task_memcg=/,task=x,pid=99999999999999999999,uid=0", Kill{}, false},
	} {
		if got, ok := parse([]byte(test.record)); got != test.want || ok != test.ok {
			t.Errorf("%s: %+v %v, want %+v %v", name, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("6,905,1234567,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/a,task=java,pid=42,uid=1000\n"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if kill, ok := parse(record); !ok && kill != (Kill{}) || kill.Pid < 0 {
			t.Errorf("%q is %+v", record, kill)
		}
	})
}

// TestWatch has the kernel end a process in a group with a limit, and reads of
// it in the real log.
func TestWatch(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("control groups and the kernel's log need root")
	}
	if log, err := os.Open(Log); err != nil {
		t.Skipf("the kernel's log: %v", err)
	} else {
		_ = log.Close()
	}
	group := smallGroup(t)
	ctx, cancel := context.WithCancel(t.Context())
	kills := make(chan Kill, 100)
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, func(k Kill) { kills <- k }) }()

	// Others on this machine may be killed too, so the one of that pid counts.
	// The log may be opened only after the first was killed: then one more is.
	const killsMax = 10
	for found, n := false, 0; !found; n++ {
		if n == killsMax {
			t.Fatalf("never heard of %d kills", n)
		}
		pid := eatMemory(t, group)
		for wait := time.After(2 * time.Second); !found && wait != nil; {
			select {
			case err := <-done:
				t.Fatalf("watch ended: %v", err)
			case k := <-kills:
				if k.Pid == pid {
					found = true
					if k.Host || k.Process != "dd" {
						t.Errorf("told of %+v", k)
					}
				}
			case <-wait:
				wait = nil
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("after the end of its context: %v", err)
	}
}

// smallGroup makes a control group that may have 16 MiB, and returns the file
// that processes enter it by.
func smallGroup(t *testing.T) string {
	t.Helper()
	for _, root := range []struct{ path, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"},
	} {
		if _, err := os.Stat(filepath.Join(root.path, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root.path, "shoal-test-oom-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(dir, root.limit), []byte(strconv.Itoa(16<<20)), 0); err != nil {
			t.Skipf("no limit of memory here: %v", err)
		}
		return filepath.Join(dir, "cgroup.procs")
	}
	t.Skip("no memory controller here")
	return ""
}

// eatMemory runs a process in the group until it was killed, and returns its pid.
func eatMemory(t *testing.T, group string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", `echo $$ > "$0" && exec dd if=/dev/zero of=/dev/null bs=64M count=1`, group)
	if err := cmd.Run(); err == nil {
		t.Fatal("a process took more memory than its group may have")
	}
	return cmd.Process.Pid
}
