// Package expand replaces $(NAME) by values as Kubernetes does, within what
// exec(2) takes: a few kilobytes of references to references can stand for more
// than any memory holds.
//
// Always true: a string beyond its limit is never built, its length is counted
// first; no error contains a value.
//
// The pod runner calls it for environments, commands, arguments and paths, the
// prober for commands of probes.
package expand

import (
	"fmt"
	"os"

	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

const (
	// TotalMax is what a process begins with at most, in bytes: its arguments
	// and its environment. Linux takes a quarter of the stack's limit, which is
	// 8 MiB unless somebody changed it (execve(2), "Limits on size of arguments
	// and environment").
	TotalMax = 2 << 20
	// pointerBytes is what each string takes beside its bytes and its NUL.
	pointerBytes = 8
	// stringPages is MAX_ARG_STRLEN in pages, the closing NUL included.
	stringPages = 32
)

// StringMax is how many bytes one argument, or one variable with its name, may
// have.
func StringMax() int { return stringPages*os.Getpagesize() - 1 }

// TooLongError is a string beyond a limit.
type TooLongError struct{ Bytes, Max int }

// Error implements error.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("%d bytes with its variables expanded, and at most %d are taken; pass less, or mount it as a file", e.Bytes, e.Max)
}

// TooManyError is a process's environment and arguments together beyond TotalMax.
type TooManyError struct{ Bytes int }

// Error implements error.
func (e *TooManyError) Error() string {
	return fmt.Sprintf("the environment and the arguments up to here have %d bytes, and a process begins with at most %d; pass less (enableServiceLinks: false leaves out services), or mount files", e.Bytes, TotalMax)
}

// String replaces each $(NAME) in s by what value gives; what it does not know
// stays as it is, and $$ is one $. The error is a *TooLongError if the result
// would have more than limit bytes.
func String(s string, limit int, value func(name string) (string, bool)) (string, error) {
	mapping := func(name string) string {
		if v, ok := value(name); ok {
			return v
		}
		return "$(" + name + ")"
	}
	values := 0
	rest := expansion.Expand(s, func(name string) string {
		values += len(mapping(name))
		return ""
	})
	if n := len(rest) + values; n > limit {
		return "", &TooLongError{Bytes: n, Max: limit}
	}
	return expansion.Expand(s, mapping), nil
}

// Size sums up what a process begins with. The zero value is of nothing.
type Size struct{ bytes int }

// Add counts a string of so many bytes. The error is a *TooLongError or a
// *TooManyError, and nothing is counted then.
func (s *Size) Add(bytes int) error {
	if limit := StringMax(); bytes > limit {
		return &TooLongError{Bytes: bytes, Max: limit}
	}
	if n := s.bytes + taken(bytes); n > TotalMax {
		return &TooManyError{Bytes: n}
	}
	s.bytes += taken(bytes)
	return nil
}

// Remove takes back a string that was added.
func (s *Size) Remove(bytes int) { s.bytes -= taken(bytes) }

func taken(bytes int) int { return bytes + 1 + pointerBytes }

// Expand is String within StringMax, and counts the result.
func (s *Size) Expand(text string, value func(name string) (string, bool)) (string, error) {
	out, err := String(text, StringMax(), value)
	if err != nil {
		return "", err
	}
	return out, s.Add(len(out))
}
