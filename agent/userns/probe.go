package userns

import (
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Probe says why this host cannot give pods user namespaces, as which file
// system among those of dirs cannot map ids.
func Probe(dirs ...string) error {
	return Make(Length, 0, func(pid int) error {
		users := filepath.Join("/proc", strconv.Itoa(pid), "ns", "user")
		for _, dir := range dirs {
			tree, err := mapped(users, dir, false)
			if err != nil {
				return fmt.Errorf("user namespaces of pods are not possible on this host: %w", err)
			}
			_ = unix.Close(tree)
		}
		return nil
	})
}
