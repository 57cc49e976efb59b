// Package services keeps the datapath's service maps equal to the cell's
// Services and EndpointSlices.
//
// Translate, which is pure, says what a Service and its slices mean; the
// Controller runs it for whatever has changed and hands the result to the
// datapath, which writes only what differs. Nothing that an earlier daemon
// left is removed before the first full sync of both kinds.
//
// The daemon runs one Controller. It does not choose endpoints (the
// EndpointSlice controller does) and does not touch the kernel itself.
package services
