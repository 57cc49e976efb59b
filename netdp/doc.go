// Package netdp is the user-space side of the datapath: it loads the programs
// of package bpf into the kernel, keeps their maps true, and gives each pod its
// network namespace and address.
//
// What always holds:
//   - No netfilter rule is ever written, and no program is started: everything
//     goes through bpf(2), netlink and /proc/sys.
//   - Programs, maps and pod namespaces outlive the daemon. Close leaves them
//     in place and working; Remove takes them away.
//   - A map is never emptied because the daemon started: what an earlier run
//     left stays until SyncComplete says that every service has been set again.
//   - A service that grows gets its slots before its count; one that shrinks
//     gets its count first. No reader sees a slot that was never filled.
//
// The daemon opens one Datapath; the agent calls Attach, Detach and Attached
// for its pods, and package netdp/services calls SetService, DeleteService and
// SyncComplete. All methods may be called from many goroutines.
//
// It knows nothing of Kubernetes objects (package netdp/services translates
// them), decides nothing about placement or readiness, and does not yet
// masquerade pods that call the world outside, encrypt, or enforce policy.
package netdp
