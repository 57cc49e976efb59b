// Package lab runs several peers on one Linux machine, each as if it were a host
// of its own: `shoal lab`, and the ground that tests and benchmarks of a whole
// cell stand on.
//
// A peer is a "host": a process in network, mount, pid, UTS and IPC namespaces
// of its own, with its own /run, /var/log and /var/lib, a control group that
// bounds its memory, a containerd of its own (started by its daemon, as on any
// host) and one link, eth0, to a bridge of the lab. The machine has an address
// on that bridge and so reaches every peer.
//
// What always holds:
//   - Everything a lab made is found again from its directory's name alone: the
//     control groups, the links and the directory carry an id derived from it.
//     Down therefore works after any crash, and twice.
//   - All that belongs to a host dies with its first process, because that is
//     the first of a pid namespace; its mounts, its network and its pods' go
//     with the namespaces. Kill is that, and nothing else.
//   - lab.json is the only record; whoever changes it holds the lab's lock.
//   - Nothing outside the lab's directory, its bridge and its control groups is
//     written on the machine, and no packet filter of the machine is touched.
//
// It drives the shoal binary as a user would and does not look inside a peer:
// what a peer holds is asked of its API.
package lab
