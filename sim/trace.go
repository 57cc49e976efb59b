package sim

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// keptLines of the trace are told with a failure, and keptOfKey of those
	// about the key that failed.
	keptLines = 60
	keptOfKey = 80
)

// trace is what happened, as a hash of all and the end of it in words.
type trace struct {
	hash    *xxhash.Digest
	lines   []string
	keys    map[string][]string
	verbose bool
	all     strings.Builder
}

func newTrace(verbose bool) *trace {
	return &trace{hash: xxhash.New(), keys: make(map[string][]string), verbose: verbose}
}

func (t *trace) note(key string, now time.Duration, format string, args ...any) {
	line := fmt.Sprintf("%12v ", now) + fmt.Sprintf(format, args...)
	_, _ = io.WriteString(t.hash, line)
	if t.verbose {
		t.all.WriteString(line + "\n")
	}
	if key == "" {
		t.lines = keep(t.lines, line, keptLines)
	} else {
		t.keys[key] = keep(t.keys[key], line, keptOfKey)
	}
}

func keep(lines []string, line string, most int) []string {
	if lines = append(lines, line); len(lines) > 2*most {
		lines = append(lines[:0:0], lines[len(lines)-most:]...)
	}
	return lines
}

// end is the last of what happened to all and to one key, in order of time.
func (t *trace) end(key string) string {
	var b strings.Builder
	if of := t.keys[key]; len(of) > 0 {
		fmt.Fprintf(&b, "the last of %s:\n%s\n", key, strings.Join(of[max(0, len(of)-keptOfKey):], "\n"))
	}
	fmt.Fprintf(&b, "the last of the cell:\n%s\n", strings.Join(t.lines[max(0, len(t.lines)-keptLines):], "\n"))
	return b.String()
}
