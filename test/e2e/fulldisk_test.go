package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/test/harness"
)

// startOnSmallDisk starts a daemon whose data directory is a small disk of its
// own.
func startOnSmallDisk(t *testing.T) (*harness.Daemon, string) {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", fullDiskBytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return startSecond(t, filepath.Join(disk, "data")), disk
}

// startSecond starts a daemon in network and mount namespaces of its own.
func startSecond(t *testing.T, dataDir string, flags ...string) *harness.Daemon {
	t.Helper()
	second := *daemon
	second.Name = "second"
	second.DataDir = dataDir
	second.Extra = append(slices.Clone(daemon.Extra), flags...)
	second.APIAddr = "127.0.0.1:6443"
	second.LogFile = filepath.Join(t.TempDir(), "shoal.log")
	second.Namespace = daemon.Namespace + "-second"
	// Its socket programs must not see the traffic of the shared daemon.
	second.CgroupRoot = filepath.Join(daemon.CgroupRoot, "second")
	if err := os.MkdirAll(second.CgroupRoot, 0o755); err != nil {
		t.Fatal(err)
	}
	// A link gives the host an address that pods could reach.
	script := "ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth1 up; ip address add 198.51.100.1/24 dev eth0; ip link set eth0 up; exec \"$0\" \"$@\""
	second.Prefix = []string{"unshare", "--net", "--mount", "sh", "-c", script}
	if err := second.Launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-second.Exited():
		default:
			second.Kill()
		}
		if t.Failed() {
			t.Logf("end of its log:\n%s", harness.Tail(second.LogFile))
		}
	})
	eventually(t, "second daemon ready", func() error {
		select {
		case <-second.Exited():
			t.Fatalf("it ended:\n%s", harness.Tail(second.LogFile))
		default:
		}
		return kubectlOf(t, &second, "", "get", "serviceaccount", "default").Err
	})
	return &second
}

// kubectlOf speaks to such a daemon, inside its network.
func kubectlOf(t *testing.T, second *harness.Daemon, input string, args ...string) harness.Result {
	t.Helper()
	path, err := harness.Binary(".cache/bin/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	argv := second.Within(append([]string{path, "--kubeconfig", second.Kubeconfig(), "--request-timeout", "30s"}, args...)...)
	return harness.Command{Argv: argv, Stdin: strings.NewReader(input)}.Run(t.Context())
}

// fillDisk writes until the disk is full and returns the file.
func fillDisk(t *testing.T, disk string) string {
	t.Helper()
	path := filepath.Join(disk, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	for {
		if _, err := file.Write(block); errors.Is(err, unix.ENOSPC) {
			return path
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
