package userns

import (
	"fmt"

	"github.com/containerd/containerd/v2/pkg/sys"
)

// mapping is the range at first in the form of newuidmap(1).
func mapping(first uint32) string { return fmt.Sprintf("0:%d:%d", first, Length) }

// Make makes a user namespace with the range at first, and in it namespaces of
// the kinds that flags (CLONE_NEW...) name. keep pins them by the number of a
// process that is in all of them and ends when keep returns.
func Make(first uint32, flags uintptr, keep func(pid int) error) error {
	m := mapping(first)
	if err := sys.UnshareAfterEnterUserns(m, m, flags, keep); err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	return nil
}
