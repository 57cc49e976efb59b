//go:build linux && cgo

package logwriter

// The writer itself is in writer_linux.c; cgo links it in and its
// constructor runs before the Go runtime.

import "C"

// Supported reports whether this build contains the log writer.
const Supported = true
