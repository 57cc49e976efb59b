// Package records is what the names of a cell mean: an index of Services, their
// EndpointSlices and Pods that answers by the Kubernetes DNS schema
// (kubernetes/dns docs/specification.md, version 1.1.0).
//
// What always holds:
//   - The index is pure: no clock, no goroutine, no I/O. Whoever follows the API
//     tells it each change; a lookup sees a service before or after a change and
//     never half of it.
//   - Version grows with every change of what is answered, so an answer may be
//     kept by the version it was made at.
//   - A name inside the cell's domain that is not in the schema does not exist;
//     a name that exists without records of the type asked for says so. Both are
//     for the caller to tell clients, and neither is to be asked of anybody else.
//
// Names of pods (a-b-c-d.NAMESPACE.pod.DOMAIN) exist while a pod has the address.
// The schema would have them for every address, under which anybody could be
// reached by a name of the cell.
//
// Package dns serves it. It knows nothing of packets, caches or other servers.
package records
