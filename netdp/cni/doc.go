// Package cni is the network driver of hosts whose administrator has CNI plugins:
// the pods' network is what the plugins of a directory make of it, by the first
// network configuration of another.
//
// What always holds: a record is on disk before the first plugin of a pod runs
// and until the last one has taken everything back, so a daemon that was killed
// at any moment, or a host that rebooted, leaves nothing that the next daemon does
// not know of. A pod's network is taken away by the configuration that made it,
// whatever the directory says by then. A plugin that does not answer in time is
// killed with its children, and so is one that outlives its daemon. Plugins see
// nothing of the daemon's own secrets.
//
// The specification is https://www.cni.dev/docs/spec/, versions 0.1.0 to 1.1.0;
// libcni speaks it. What runtimes of Kubernetes pass beside it is followed:
// arguments K8S_POD_*, and the capabilities portMappings, bandwidth, dns and
// ipRanges.
//
// The daemon makes one Driver. It routes nothing and translates no service: that
// such pods are known to the datapath is driver.Routed's part.
package cni
