//go:build linux

package lab

import (
	"fmt"
	"io"
	"sync"
)

// steps tells a person what has been done, from several goroutines.
type steps struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func newSteps(out io.Writer) *steps {
	if out == nil {
		out = io.Discard
	}
	return &steps{out: out}
}

func (s *steps) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format+"\n", args...)
}
