package netdp

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// Everything the programs use is there where Features finds all it lists, so
// that list is not short of anything this kernel can tell apart.
func TestFeaturesAreComplete(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to probe the kernel")
	}
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Programs, bpf.DatapathProgDestroyUdp) // does without
	for _, f := range Features() {
		if err := f.Check(); err != nil {
			t.Skipf("this kernel lacks one: %v", err)
		}
	}
	if missing := lacking(spec); len(missing) != 0 {
		t.Errorf("Features lists nothing of %q", missing)
	}
}

// What a probe finds missing is named, with the kernel that has it; what a probe
// may not do says what it needs; any other fault stays one.
func TestMissingFeatureIsNamed(t *testing.T) {
	for _, c := range []struct {
		probe       error
		unsupported bool
		want        string
	}{
		{nil, false, ""},
		{fmt.Errorf("%w: %w", ebpf.ErrNotSupported, unix.EINVAL), true, "use tail calls: this kernel does not have it (Linux 5.10 or later does)"},
		{unix.EPERM, false, "needs CAP_BPF"},
		{unix.ENOMEM, false, "probe tail calls: "},
	} {
		err := Feature{Name: "tail calls", Since: "5.10", probe: func() error { return c.probe }}.Check()
		var unsupported *UnsupportedError
		if errors.As(err, &unsupported) != c.unsupported || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.probe, err, c.want)
		}
	}
}

// The probe's program is refused where one of its parts is, so it is no empty one.
func TestTailCallProbe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to probe the kernel")
	}
	if err := tailCallWithSubprogram(); err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		t.Error(err)
	}
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	mixed := 0 // programs that the probe stands for
	for _, p := range spec.Programs {
		tails, calls := false, false
		for _, ins := range p.Instructions {
			tails = tails || ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnTailCall
			calls = calls || ins.IsFunctionCall()
		}
		if tails && calls {
			mixed++
		}
	}
	if mixed == 0 {
		t.Error("no program has both: the probe asks for more than is needed")
	}
}

// A load that fails for want of a feature names it; any other prints the
// verifier's whole log.
func TestLoadErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs")
	}
	load := func(body ...asm.Instruction) error {
		spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"bad": {
			Name: "bad", Type: ebpf.SchedCLS, License: "GPL", Instructions: body,
		}}}
		_, err := ebpf.NewCollection(spec)
		if err == nil {
			t.Fatal("a bad program was loaded")
		}
		return loadError(spec, err)
	}
	var unsupported *UnsupportedError
	err := load(asm.FnGetFuncIp.Call(), asm.Return()) // of tracing programs only
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "helper FnGetFuncIp in programs of type SchedCLS") {
		t.Errorf("a helper that is not there: %v", err)
	}
	long := asm.Instructions{asm.Mov.Imm(asm.R1, 0)}
	for range 100 {
		long = append(long, asm.Add.Imm(asm.R1, 1))
	}
	err = load(append(long, asm.Return())...) // R0 was never set
	if errors.As(err, &unsupported) {
		t.Errorf("a feature is blamed: %v", err)
	}
	for _, part := range []string{"100: ", "R0 !read_ok"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the verifier's log lacks %q: %v", part, err)
		}
	}
	if lines := strings.Count(err.Error(), "\n"); lines < 100 {
		t.Errorf("%d lines of the verifier's log", lines)
	}
}
