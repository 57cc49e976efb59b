package runner

import "testing"

// TestAccess is what users do with and see of running pods.
func TestAccess(t *testing.T) {
	b := newBed(t)
	t.Run("names", b.testNames)
	t.Run("host IPC", b.testHostIPC)
}
