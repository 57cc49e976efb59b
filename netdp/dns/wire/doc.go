// Package wire reads DNS queries and writes answers as bytes (RFC 1035, RFC
// 6891). An answer is packed once and then given to many clients by a copy and a
// few patches, which is what makes a server of names fast.
//
// What always holds: any bytes can be read, and nothing in them makes a loop or
// an allocation larger than themselves; an answer is never longer than its
// client takes, and says so by the TC bit when records were left out; the
// question comes back in the client's own spelling.
//
// Records are packed and unpacked by github.com/miekg/dns; this package knows of
// them only where their lifetimes are.
package wire
