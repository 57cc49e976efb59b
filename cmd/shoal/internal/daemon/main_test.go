//go:build linux

package daemon

import (
	"os"
	"testing"

	"shoal/test/harness"
)

// TestMain gives the tests a network of their own: peers speak to each other at
// a host's address, which loopback's are not.
func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(*harness.World) int { return m.Run() }))
}
