package userns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Probe says why this host cannot give pods user namespaces, as which file
// system among those of dirs cannot map ids.
func Probe(dirs ...string) error {
	ns, err := Make(Length)
	if err != nil {
		return err
	}
	defer ns.Close()
	for _, dir := range dirs {
		tree, err := mapped(ns.Path("user"), dir, false)
		if err != nil {
			return fmt.Errorf("user namespaces of pods are not possible on this host: %w", err)
		}
		_ = unix.Close(tree)
	}
	return nil
}
