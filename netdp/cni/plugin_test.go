package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// This program is also a plugin, by the names that it is linked to: one that runs
// behind others and does one thing.
const (
	// witness writes down what it was told, and is closed where a file says so.
	witness = "shoal-test-witness"
	// refuser fails to add, in the form of the specification.
	refuser = "shoal-test-refuser"
	// crasher fails to add without that form.
	crasher = "shoal-test-crasher"
	// hanger does not end, and neither does its child. It takes no TERM.
	hanger = "shoal-test-hanger"
	// leaver adds, and leaves a child behind that holds its pipes.
	leaver = "shoal-test-leaver"
	// talker prints without an end.
	talker = "shoal-test-talker"
)

// told is what a plugin learns.
type told struct {
	Env   []string
	Input map[string]any
}

func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); name {
	case daemonName:
		os.Exit(beADaemon())
	case witness, refuser, crasher, hanger, leaver, talker:
		os.Exit(beAPlugin(name))
	}
	os.Exit(m.Run())
}

func beAPlugin(name string) int {
	var input map[string]any
	data, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(data, &input)
	}
	if err != nil {
		return fail(err)
	}
	adds := os.Getenv("CNI_COMMAND") == "ADD"
	dir, _ := input["testDir"].(string)
	switch {
	case name == witness && os.Getenv("CNI_COMMAND") == "STATUS":
		if _, err := os.Stat(filepath.Join(dir, "closed")); err == nil {
			fmt.Print(`{"cniVersion":"1.1.0","code":50,"msg":"closed today"}`)
			return 1
		}
		if _, err := os.Stat(filepath.Join(dir, "hung")); err == nil {
			time.Sleep(time.Hour)
		}
	case name == witness:
		data, _ := json.Marshal(told{os.Environ(), input})
		err = os.WriteFile(filepath.Join(dir, os.Getenv("CNI_COMMAND")), data, 0o600)
	case name == refuser && adds:
		fmt.Print(`{"cniVersion":"1.0.0","code":11,"msg":"the switch is on fire","details":"try later"}`)
		return 1
	case name == crasher && adds:
		fmt.Fprintln(os.Stderr, "panic: no such thing")
		return 2
	case name == leaver && adds:
		child := exec.Command("sleep", "100000")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err = child.Start(); err == nil {
			err = os.WriteFile(filepath.Join(dir, "pids"), fmt.Append(nil, child.Process.Pid), 0o600)
		}
	case name == talker && adds:
		for line := strings.Repeat("more ", 1000); ; {
			if _, err := fmt.Println(line); err != nil {
				return 1
			}
		}
	case name == hanger && adds:
		child := exec.Command("sleep", "100000")
		child.Stdout = os.Stdout // it holds the pipe too
		if err = child.Start(); err == nil {
			err = os.WriteFile(filepath.Join(dir, "pids"), fmt.Appendf(nil, "%d %d", os.Getpid(), child.Process.Pid), 0o600)
			_ = child.Wait()
		}
	}
	if err != nil {
		return fail(err)
	}
	if adds {
		result := input["prevResult"]
		if result == nil { // it is the first
			result = map[string]any{"cniVersion": input["cniVersion"], "ips": []any{map[string]string{"address": fmt.Sprintf("203.0.113.%d/24", lastOf(os.Getenv("CNI_ARGS")))}}}
		}
		out, _ := json.Marshal(result)
		fmt.Println(string(out))
	}
	return 0
}

// lastOf tells pods apart whose uids differ in their last letter.
func lastOf(args string) byte {
	if args == "" {
		return 0
	}
	return args[len(args)-1]
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// linkPlugins makes a directory with this program under its names.
func linkPlugins(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{witness, refuser, crasher, hanger, leaver, talker} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// value is a variable that a plugin was given.
func (w told) value(name string) string {
	for _, kv := range w.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
