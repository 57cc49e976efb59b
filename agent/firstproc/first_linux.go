//go:build linux && cgo

package firstproc

// The process itself is in first_linux.c; cgo links it in and its constructor
// runs before the Go runtime.

import "C"
