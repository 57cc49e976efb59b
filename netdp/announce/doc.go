// Package announce answers on the local link for addresses that no interface
// has: ARP requests (RFC 826) and neighbour solicitations (RFC 4861), so that
// machines there send this host what is for a service's address. The datapath's
// programs at the same interfaces take it from there.
//
// Frames are read and made by pure functions; a Responder has a packet socket
// with a filter on each interface, and goroutines only while it has something to
// answer for. Before it takes an address over it asks whether another machine has it
// (RFC 5227, RFC 4862), and then does not; a host of the cell that still answers gets
// a moment to stop. When it has taken one over it says so unasked, several times,
// as neighbours remember the last host for minutes; likewise when Set is told to
// renew, which the caller does when the hosts of the cell have changed. Who claims an
// address that it holds is told once that it does, and has it if it says so again.
//
// What always holds: nothing is answered for an address that Set does not list,
// nor for one that another machine was heard to have, nor after Close; the kernel's own addresses and tables are not touched; what
// is sent answers one question each, and is bounded by announceTimes and probeTimes
// beside.
//
// Who answers for which address is decided in package elect.
package announce
