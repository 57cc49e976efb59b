// Package join lets a host into a cell: a token against a node certificate.
//
// What always holds: a joiner says its token's secret only to a host that proved
// to hold a node certificate of the cell named in the token; a private key never
// leaves its host; a certificate is issued only for a token that is known, in
// force and not used up, to a name nobody holds, to a clock within MaxSkew, and
// under a protocol version that both ends named; attempts per source, sessions
// at once, message sizes and times are bounded; every refusal is a *Refusal that
// says what to do next.
//
// A single-use token is used up before the certificate is issued, by a write
// that only one of several can win; if what follows fails, it stays used up.
// Two peers that cannot reach each other cannot know of each other's writes: in
// a cell that is split, such a token is good once on each side. The same holds
// for two hosts that join under one name on two sides.
//
// One connection: TLS 1.3 with ALPN Protocol on the port of record streams, the
// server showing its node certificate and the cell's CA, the client none; then
// hello and welcome (versions and clocks), then request and grant, or a refusal
// in place of an answer. A message is a 4-byte length and JSON.
//
// The daemon mounts a Service on its listener and calls Join at a first start.
package join
