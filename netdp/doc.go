// Package netdp is the user-space side of the datapath: it loads the programs
// of package bpf into the kernel, keeps their maps true, gives each pod its
// network namespace and address, and makes the ways to the pods of other hosts.
//
// What always holds:
//   - No netfilter rule is ever written, and no program is started: everything
//     goes through bpf(2), netlink and /proc/sys.
//   - Programs, maps and pod namespaces outlive the daemon. Close leaves them
//     in place and working; Remove takes them away.
//   - A map is never emptied because the daemon started: what an earlier run
//     left stays until SyncComplete says that every service has been set again.
//   - The same holds for the ways to other hosts: an earlier daemon's stay until
//     the first SetHosts. All our routes carry routeProtocol; no other is
//     touched, and an administrator's own route to the same pods wins.
//   - Where a host's address is on a link that this host shares with it, its
//     pods are reached by a plain route; elsewhere by VXLAN; with encryption by
//     WireGuard, or not at all (bpf/bare.h). What a pod sends
//     never exceeds the smallest of all ways (see podMTU).
//   - Between pods and hosts addresses are never changed. Only a call from
//     outside that goes on to a backend of another host carries this host's
//     address there, or its answer would go past us; and a pod's call to the
//     world outside carries it, which knows no way to pods.
//   - A pod that a network policy isolates is judged on every way to it and from
//     it. Once EnforcePolicy was called, a new pod has its policies, or is held,
//     before it has a link; what an earlier daemon wrote holds until then.
//   - A service that grows gets its slots before its count; one that shrinks
//     gets its count first. No reader sees a slot that was never filled.
//
// Pods have an IPv6 address beside their IPv4 one where Options give a range of it
// and the host has IPv6 (see checkIPv6). Hosts reach each other by IPv4 at least.
//
// The daemon opens one Datapath; the agent calls Attach, Detach and Attached
// for its pods, package netdp/services calls SetService, DeleteService and
// SyncComplete, package netdp/hosts calls SetHosts and WatchLinks, and package
// netdp/policy calls EnforcePolicy and SetPolicy; Hosts tells status how each host
// is reached. All methods may be called from many goroutines.
//
// It knows nothing of Kubernetes objects (packages netdp/services and netdp/policy
// translate them), and decides nothing about placement or readiness.
package netdp
