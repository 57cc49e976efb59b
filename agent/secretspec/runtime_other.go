//go:build !linux || !cgo

package secretspec

// Supported reports whether this build contains the constructor.
const Supported = false
