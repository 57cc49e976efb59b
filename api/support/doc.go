// Package support tells clients what this version stores and does not act on:
// an admission plug-in answers a create or a change of such an object with a
// `Warning:` header, which kubectl and client libraries print.
//
// What always holds: nothing is changed or refused here, and an object whose
// every part works gets no warning. docs/support-matrix.md lists the same kinds;
// a test holds the two together. Pods that cannot run as written are refused by
// the agent of their host, with an event; the warning here comes earlier.
//
// Called by api/ only, which registers the plug-in.
package support
