package cni

import (
	"encoding/json"
	"net/netip"
	"path/filepath"

	"shoal/netdp/podfile"
)

// record is what the host remembers of a pod's network from before the first
// plugin runs until the last has ended.
type record struct {
	UID          string          `json:"uid"`
	Namespace    string          `json:"namespace"`
	Name         string          `json:"name"`
	Sandbox      string          `json:"sandbox"` // CNI_CONTAINERID
	Boot         string          `json:"boot"`    // a reboot takes namespaces away, not leases
	Config       json.RawMessage `json:"config"`  // the list of plugins, all in it
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	Addresses    []netip.Addr    `json:"addresses,omitempty"`
	Made         bool            `json:"made"` // every plugin has answered
}

// PodUID implements podfile.Record.
func (r record) PodUID() string { return r.UID }

// recordsIn keeps records in the driver's directory. They are synced: a lease that
// nobody remembers is lost to the host's range. A configuration may hold secrets.
func recordsIn(stateDir string) podfile.Store[record] {
	return podfile.Store[record]{
		Dir: filepath.Join(stateDir, "pods"), Synced: true,
		Repair: "take back what the plugins noted of the pod, and remove the file",
	}
}
