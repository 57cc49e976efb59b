// Package services keeps the datapath's service maps equal to the cell's
// Services and EndpointSlices, and to the hostPorts of this host's pods.
//
// Translate and HostPorts, which are pure, say what a Service and its slices,
// or a pod, mean; the Controller runs them for whatever has changed and hands
// the result to the datapath, which writes only what differs. Nothing that an
// earlier daemon left is removed before the first full sync of all kinds.
//
// Endpoints on a host that gossip calls failed are left out at once, before
// anybody has written so to the API, and are back with their host. What a user
// should know of a service or pod (its address is taken, a process has its port)
// is an Event.
//
// The daemon runs one Controller. It does not choose endpoints (the
// EndpointSlice controller does) and does not touch the kernel itself.
package services
