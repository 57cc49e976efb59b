package logwriter

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ended reports whether a log has all that its container wrote: its writer, which
// holds a lock on it, has ended. A log that is not there has ended too.
func Ended(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	return !errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
