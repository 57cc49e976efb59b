//go:build !linux || !cgo

package logwriter

// Supported reports whether this build contains the log writer.
const Supported = false
