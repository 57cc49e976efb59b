// Package logwriter writes container output to log files in the kubelet's
// line format, in a process of its own that outlives the daemon. Where the
// container has input or a terminal, that process is a console: clients of
// `attach` connect to it through a socket.
//
// The containerd shim starts the shoal binary itself as its `binary://`
// logger. A C constructor looks at the arguments before the Go runtime
// starts; when they name the log writer it runs a small loop and never
// returns, so one log writer costs a few hundred kilobytes instead of a Go
// process. Importing this package links the constructor in.
//
// Always true: a line is written whole or as marked parts; output that
// cannot be stored is dropped rather than allowed to block the container;
// the writer ends when its shim tells it to, after draining what is left; as
// long as it runs it holds a lock on the log.
//
// The agent calls URI or StartConsole when it creates a task, and Attach for
// each client. Nothing here reads logs.
package logwriter

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
)

// Arg is the first argument by which a process knows that it is a log
// writer. The second is "maxBytes:maxFiles:path", with the owner of the
// container's pipes and a colon before the path if it is not root.
const Arg = "shoal-log-writer"

// MaxLineBytes is the longest message in one line; longer ones are split
// into lines tagged P, as container runtimes do for the kubelet.
const MaxLineBytes = 16 << 10

// Limits bound the files of one container.
type Limits struct {
	MaxBytes int64 // size at which a file is rotated
	MaxFiles int   // files kept, the one being written included
}

// MaxFiles is the largest number of files that Limits may keep: the writer
// looks at no more when it removes old ones.
const MaxFiles = 64

// DefaultLimits are the kubelet's containerLogMaxSize and
// containerLogMaxFiles defaults.
var DefaultLimits = Limits{MaxBytes: 10 << 20, MaxFiles: 5}

// URI returns the shim's logging address that makes binary, which must link
// this package, write to path. The directory of path must exist. owner is who
// the container's root is on the host.
func URI(binary, path string, limits Limits, owner uint32) (string, error) {
	if !filepath.IsAbs(binary) || !filepath.IsAbs(path) {
		return "", fmt.Errorf("build log address: %q and %q must be absolute paths", binary, path)
	}
	// One query key only: the shim hands keys over in map order.
	of := ""
	if owner != 0 {
		of = strconv.FormatUint(uint64(owner), 10) + ":"
	}
	query := url.Values{Arg: {target(of+path, limits)}}
	return (&url.URL{Scheme: "binary", Path: binary, RawQuery: query.Encode()}).String(), nil
}

// target is a log's limits and path as one argument.
func target(path string, limits Limits) string {
	if limits.MaxBytes <= 0 || limits.MaxFiles <= 0 {
		limits = DefaultLimits
	}
	return fmt.Sprintf("%d:%d:%s", limits.MaxBytes, limits.MaxFiles, path)
}
