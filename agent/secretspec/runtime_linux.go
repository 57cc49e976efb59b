//go:build linux && cgo

package secretspec

// The constructor is in runtime_linux.c; cgo links it in.

import "C"

// Supported reports whether this build contains the constructor.
const Supported = true
