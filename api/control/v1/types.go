// Package v1 is what `shoal status`, `backup`, `leave`, `node forget` and
// `keys rotate` say to a peer and hear from it: paths below the API server's
// address and JSON bodies.
//
// What always holds: fields are only added; a reader ignores what it does not
// know, so that a client and a peer of different releases understand each
// other. The package imports nothing but the standard library, because the
// client builds for any operating system and must not link a server.
package v1

import "time"

// Paths below the address of any peer's API server. Requests pass its
// authentication and authorization as non-resource URLs: system:masters may
// use them all, others as RBAC's nonResourceURLs say.
const (
	Prefix         = "/shoal/v1/"
	StatusPath     = Prefix + "status"      // GET: Status
	BackupPath     = Prefix + "backup"      // GET: a stream in the format of store/backup
	LeavePath      = Prefix + "leave"       // POST LeaveRequest: Answer
	ForgetPath     = Prefix + "forget"      // POST ForgetRequest: Answer
	RotateKeysPath = Prefix + "keys/rotate" // POST, no body: Answer
	EncryptionPath = Prefix + "encryption"  // POST EncryptionRequest: Answer
)

// Status is a cell as the peer that answers sees it.
type Status struct {
	// Cell names the cell: the hash of its certificate authority.
	Cell string `json:"cell"`
	// Peer is the name of the peer that answers.
	Peer string    `json:"peer"`
	Time time.Time `json:"time"`

	Peers []Peer `json:"peers"`
	Paths []Path `json:"paths,omitempty"`
	// Encryption is how what pods of two hosts say travels: off or wireguard.
	Encryption string `json:"encryption,omitempty"`
	// EncryptedBy is what encrypts on the host that answers, "the kernel" or
	// "wireguard-go"; absent: nothing does.
	EncryptedBy  string        `json:"encryptedBy,omitempty"`
	Alarms       []Alarm       `json:"alarms"`
	Certificates []Certificate `json:"certificates"`
	Disk         Disk          `json:"disk"`
	Store        Store         `json:"store"`
}

// States of a peer.
const (
	Alive  = "alive"
	Failed = "failed" // stopped answering; it still counts as a member
	Left   = "left"
)

// Peer is one member of the cell.
type Peer struct {
	Name string `json:"name"`
	// Address is the peer's for other hosts and pods, without a port.
	Address string `json:"address"`
	// API is HOST:PORT where the peer serves the Kubernetes API.
	API   string `json:"api,omitempty"`
	State string `json:"state"`
	// Since says when the peer came into that state, as far as is known.
	Since time.Time `json:"since,omitzero"`
	// Actor is the incarnation whose writes the peer makes, in hexadecimal.
	Actor string `json:"actor,omitempty"`
	// Version is shoal's, Kubernetes the API's.
	Version    string `json:"version,omitempty"`
	Kubernetes string `json:"kubernetes,omitempty"`
	// LagDeltas: of the peer that answers, how many deltas it knows others to
	// hold and lacks; of another, how many deltas the answering peer holds and
	// the other, by its last report, lacks. Absent where nothing was reported.
	LagDeltas *uint64 `json:"lagDeltas,omitempty"`
	// LastExchange is when state was last compared with the peer.
	LastExchange time.Time `json:"lastExchange,omitzero"`
	RTTMillis    *float64  `json:"rttMillis,omitempty"`
	// SkewMillis is how far the peer's clock is ahead of the answering one's.
	SkewMillis    *float64 `json:"skewMillis,omitempty"`
	SentBytes     uint64   `json:"sentBytes,omitempty"`
	ReceivedBytes uint64   `json:"receivedBytes,omitempty"`
}

// Path says how the answering peer's pods reach those of another host.
type Path struct {
	Host string `json:"host"`
	Path string `json:"path"` // direct, vxlan, wireguard or unreachable
	Via  string `json:"via,omitempty"`
	MTU  int    `json:"mtu,omitempty"`
	// LastHandshake of a path that is encrypted is when the two hosts last agreed
	// on keys; absent: not yet.
	LastHandshake time.Time `json:"lastHandshake,omitzero"`
	// Problem is why there is no way.
	Problem string `json:"problem,omitempty"`
}

// Values of Status.Encryption.
const (
	EncryptionOff       = "off"
	EncryptionWireGuard = "wireguard"
)

// EncryptionRequest switches encryption between the hosts of the cell.
type EncryptionRequest struct {
	On bool `json:"on"`
}

// Severities of an alarm.
const (
	Critical = "critical" // something does not work
	Warning  = "warning"  // something will not work if nothing is done
)

// Alarm is one thing a person should know, as data.
type Alarm struct {
	// Code is stable and made for programs.
	Code     string `json:"code"`
	Title    string `json:"title"`
	Severity string `json:"severity"`
	// Since is when it began, where that is known.
	Since time.Time `json:"since,omitzero"`
	// Fix is what to do, a command where there is one.
	Fix string `json:"fix,omitempty"`
}

// Certificate is one of the answering peer's.
type Certificate struct {
	Name string `json:"name"`
	// Renews is when the peer makes a new one by itself; zero for those it
	// never replaces.
	Renews  time.Time `json:"renews,omitzero"`
	Expires time.Time `json:"expires"`
}

// Disk is the file system that holds the answering peer's state.
type Disk struct {
	Path       string `json:"path"`
	FreeBytes  uint64 `json:"freeBytes"`
	TotalBytes uint64 `json:"totalBytes"`
}

// Store is the answering peer's records.
type Store struct {
	Records    int64 `json:"records"`
	Tombstones int64 `json:"tombstones"`
	DiskBytes  int64 `json:"diskBytes"`
	Watchers   int   `json:"watchers"`
	// Root is the same, in hexadecimal, on peers that hold the same records,
	// but for those with a time to live.
	Root string `json:"root,omitempty"`
	// Refusing: writes are refused for want of disk space.
	Refusing bool `json:"refusing"`
}

// LeaveRequest makes the peer that is asked leave the cell.
type LeaveRequest struct {
	// Peer is the name of the peer that is meant. Another one refuses, so that
	// a kubeconfig that points elsewhere than thought does no harm.
	Peer string `json:"peer"`
	// KeepPods leaves the host's containers running, without a cell.
	KeepPods bool `json:"keepPods,omitempty"`
}

// ForgetRequest removes a member that failed or left.
type ForgetRequest struct {
	Name string `json:"name"`
}

// Answer says in words what was done.
type Answer struct {
	Message string `json:"message"`
}

// Refusal is the body of every answer with a status of 400 and above that this
// package's server gives.
type Refusal struct {
	Error string `json:"error"`
}
