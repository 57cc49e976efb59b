//go:build linux

package lab

import (
	"strings"
	"testing"
)

func TestCheckFlags(t *testing.T) {
	if err := checkFlags([]string{"--reserved=cpu=100m", "--seccomp-default", "--eviction-hard=memory.available<1Mi", "--join=192.0.2.1"}); err != nil {
		t.Error(err)
	}
	for flag, says := range map[string]string{
		"reserved=cpu=100m":   "want a flag",
		"--":                  "want a flag",
		"-d":                  "want a flag",
		"":                    "want a flag",
		"--data-dir=/tmp":     "of its own",
		"--name":              "of its own",
		"--cgroup-root=/sys/": "of its own",
	} {
		if err := checkFlags([]string{"--reserved=cpu=100m", flag}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want it to say %q", flag, err, says)
		}
	}
}
