// Package wireguard is one WireGuard device (https://www.wireguard.com/papers/wireguard.pdf)
// of a host: the kernel's where the kernel has them, otherwise wireguard-go in
// this process over a TUN interface.
//
// What always holds: a packet leaves encrypted for the one peer that has its
// destination, and one that comes in is from the peer that has its source, or it
// is dropped. SetPeers changes what differs and nothing else, so that sessions
// with peers that stay go on. A device of this process ends with Close or with
// the process; the kernel's stays until Remove.
//
// Package netdp is the only caller. Routes, addresses and programs are its part;
// this package knows nothing of pods.
package wireguard
