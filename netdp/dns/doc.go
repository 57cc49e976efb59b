// Package dns is the cell's DNS server: every host answers its own pods, from
// what it knows of the cell (package records), and asks other servers for the
// rest (package forward).
//
// What always holds:
//   - Names of the cell are answered from memory by the goroutine that read the
//     question. Nothing of the cell is ever asked of another server.
//   - Until Synced, a name of the cell that is not known is a failure for now
//     (SERVFAIL) and not "no such name": clients keep the latter.
//   - Only whom Options.Allowed names is answered, so that a host is no open
//     resolver; others get nothing at all.
//   - Connections, waiting questions and their times are bounded; what is over a
//     limit is told so or dropped, and the server goes on.
//   - Run returns after its goroutines, and lets no question wait longer than
//     package forward does.
//
// The daemon opens one Server (Listen), has Follow keep its index true, and
// points the kube-dns service at it (packages kubedns and netdp/services).
package dns
