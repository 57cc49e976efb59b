package localvolume

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountExt4 mounts a new ext4 made and mounted in some way.
func mountExt4(t *testing.T, made []string, mounted string) string {
	t.Helper()
	image, at := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		append(append([]string{"mkfs.ext4", "-q"}, made...), image),
		{"mount", "-o", mounted, image, at},
	} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs an ext4 with %q: %v: %s", made, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

// mayIgnoreQuotas: CAP_SYS_RESOURCE is effective.
func mayIgnoreQuotas(status string) bool {
	_, after, _ := strings.Cut(status, "CapEff:")
	line, _, _ := strings.Cut(after, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err != nil || caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestAVolumeIsHeldToItsSizeWhereTheFileSystemCan(t *testing.T) {
	d, err := OpenDirectories(filepath.Join(mountExt4(t, []string{"-O", "quota,project", "-E", "quotatype=prjquota"}, "loop,prjquota"), "volumes"), func() int64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	small, other := provision(t, d, "pvc-1"), provision(t, d, "pvc-2")
	fill := func(path string) error {
		return os.WriteFile(filepath.Join(path, "sub", "file"), make([]byte, 2<<20), 0o600)
	}
	for _, path := range []string{small, other} {
		if err := os.Mkdir(filepath.Join(path, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if status, err := os.ReadFile("/proc/self/status"); err != nil || mayIgnoreQuotas(string(status)) {
		t.Skipf("needs to be without CAP_SYS_RESOURCE, as containers are: who has it ignores limits (%v)", err)
	}
	if err := fill(small); !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("2 MiB into a volume of 1: %v", err)
	}
	if err := d.Expand(t.Context(), "pvc-1", 1<<20, 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := fill(small); err != nil {
		t.Errorf("after it has grown: %v", err)
	}
	if err := fill(other); err == nil {
		t.Error("another volume is not held")
	}
	if err := errors.Join(d.Delete(t.Context(), "pvc-1"), d.Purge(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// TestAVolumeIsAProject needs no quotas of the kernel, only project numbers.
func TestAVolumeIsAProject(t *testing.T) {
	at := mountExt4(t, []string{"-O", "project"}, "loop")
	d, err := OpenDirectories(filepath.Join(at, "volumes"), func() int64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[uint32]bool{}
	for _, name := range []string{"pvc-1", "pvc-2"} {
		dir, err := os.Open(provision(t, d, name))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if err := setProject(dir, d.freeProject(name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir.Name(), "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		sub, err := os.Open(filepath.Join(dir.Name(), "sub"))
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		mine, err := projectOf(dir)
		inherited, subErr := projectOf(sub)
		if err := errors.Join(err, subErr); err != nil || mine < firstProject || mine != inherited || numbers[mine] {
			t.Errorf("%s is project %d, what is in it %d, %v", name, mine, inherited, err)
		}
		numbers[mine] = true
	}
}
