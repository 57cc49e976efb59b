package v1

import "time"

// Paths of a host's agent, reached through any peer as
// /api/v1/nodes/NAME/proxy followed by these. The right to get nodes/proxy is
// what they need.
const (
	// FlowsPath: GET answers with one Flow per line of JSON. Its query has
	// follow=true to go on with what happens, dropped=true for drops alone,
	// namespace=NS and pod=NS/NAME.
	FlowsPath = Prefix + "flows"
	// ServicesPath: GET answers with HostServices, of the query's namespace=NS
	// and, if given, name=NAME.
	ServicesPath = Prefix + "services"
)

// Verdicts of a Flow.
const (
	Forwarded = "forwarded" // a connection was opened, or a datagram sent
	Closed    = "closed"
	Dropped   = "dropped" // a packet was dropped or a call refused; see Reason
	Lost      = "lost"    // Count records are missing here: there were too many
)

// Flow is one piece of news of a host's datapath.
type Flow struct {
	Time    time.Time `json:"time"`
	Host    string    `json:"host"`
	Verdict string    `json:"verdict"`
	// Reason of a drop, as in the metric shoal_datapath_drops_total.
	Reason   string `json:"reason,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	// Source has no address while a socket connects; it says whose socket it is.
	Source      FlowEnd `json:"source,omitzero"`
	Destination FlowEnd `json:"destination,omitzero"`
	// Service is what was called: NAMESPACE/NAME:PORT/PROTOCOL.
	Service string `json:"service,omitempty"`
	// Backend is who serves the call of a service.
	Backend FlowEnd `json:"backend,omitzero"`
	// Count is how many packets or calls there were of this kind between these
	// ends until now.
	Count uint64 `json:"count,omitempty"`
}

// FlowEnd is one side of a flow.
type FlowEnd struct {
	// Address is IP:PORT, or IP where there is no port.
	Address string `json:"address,omitempty"`
	Pod     string `json:"pod,omitempty"` // NAMESPACE/NAME
	Node    string `json:"node,omitempty"`
}

// HostServices is what one host's kernel forwards, beside what it should.
type HostServices struct {
	Host     string        `json:"host"`
	Services []HostService `json:"services"`
}

// HostService is one port of a service.
type HostService struct {
	Name      string        `json:"name"` // NAMESPACE/NAME:PORT/PROTOCOL
	Addresses []HostAddress `json:"addresses"`
	Backends  []HostBackend `json:"backends"`
}

// Differs tells whether kernel and store disagree.
func (s *HostService) Differs() bool {
	for _, a := range s.Addresses {
		if a.Kernel != a.Store {
			return true
		}
	}
	for _, b := range s.Backends {
		if b.Kernel != b.Store {
			return true
		}
	}
	return false
}

// HostAddress is one at which a service is called: IP:PORT, or "node port N".
type HostAddress struct {
	Address string `json:"address"`
	Kernel  bool   `json:"kernel"`
	Store   bool   `json:"store"`
	// Announced: this host answers for it on the link, as an address of a load
	// balancer.
	Announced bool `json:"announced,omitempty"`
}

// States of a backend; empty where it is not there.
const (
	BackendActive   = "active"
	BackendDraining = "draining" // keeps its connections and gets no new one
)

// HostBackend is one endpoint.
type HostBackend struct {
	Address string `json:"address"` // IP:PORT
	Pod     string `json:"pod,omitempty"`
	Node    string `json:"node,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	Store   string `json:"store,omitempty"`
}
