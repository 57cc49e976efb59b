// Package hosts keeps the datapath's ways to other hosts equal to the cell's
// Nodes: each Node's InternalIP addresses, pod range and WireGuard key. It tells
// this host's own key to the others.
//
// FromNodes, which is pure, says what Nodes mean; the Controller hands the
// result to the datapath, first when all Nodes are known, so that nothing an
// earlier daemon left is removed too early. It does so again every
// refreshInterval, since interfaces and routes change without the API.
//
// The daemon runs one Controller. It decides no way itself (netdp does) and
// believes what Nodes say: who may write them is the API's affair.
package hosts
