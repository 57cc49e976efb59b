// Package bpf holds the kernel side of the datapath: the C sources and what
// bpf2go made of them.
//
// The programs are sock (at the cgroup: service addresses become backends when
// a socket connects), pod (at the host end of a pod's link, where policy is
// enforced as well), uplink (at the
// physical interface: services called by other machines), overlay (at the
// tunnel to hosts that share no link with this one), gather (where segments out of
// it are put together) and wire (at the WireGuard
// device, where what passes between hosts is encrypted). layout.h says what
// they share with user space. Only package netdp loads them; it sets the
// load-time constants and sizes the maps. Nothing here runs in user space.
//
// `go generate ./bpf` needs clang (14 or later) and the libbpf headers. The
// generated files are committed, so building shoal needs neither.
package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type frontend_key -type frontend -type service -type backend -type maglev_key -type maglev_chunk -type flow_key -type flow -type pod -type translation -type nat -type range_key -type range -type affinity_key -type affinity -type source_key -type caller -type masquerade -type drop_reason -type record_kind -type record_key -type record_state -type record -type record_limit -type follow -type service_calls -type policy_subject -type policy_rule_key -type policy_block_key -type policy_port_key -type policy_conn_key -type policy_conn Datapath datapath.c
