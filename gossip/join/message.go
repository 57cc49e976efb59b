package join

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Protocol is the ALPN name of this protocol.
const Protocol = "shoal-join"

// Versions are the versions spoken, both included.
type Versions struct {
	Oldest uint16 `json:"oldest"`
	Newest uint16 `json:"newest"`
}

// Current is what this package speaks.
var Current = Versions{Oldest: 1, Newest: 1}

const (
	// MaxSkew between the clocks of a joiner and a peer: stamps of records that
	// are further ahead would be held back by everybody.
	MaxSkew = 10 * time.Second

	// maxMessage has room for the addresses of 1,024 peers, and more than that.
	maxMessage = 256 << 10
	// maxRequestBytes bounds a certificate request.
	maxRequestBytes = 16 << 10
	// maxAddresses of one host.
	maxAddresses = 64
	// maxSettings of a cell; each is a flag.
	maxSettings = 64
	// maxPeers named in a grant; a joiner needs one that answers.
	maxPeers = 1024
)

// errMessage is wrapped when what arrives is not a message of this protocol.
var errMessage = errors.New("not a message of the join protocol")

// hello is what a joiner says first; it holds no secret.
type hello struct {
	Versions Versions  `json:"versions"`
	Clock    time.Time `json:"clock"`
}

// welcome answers a hello.
type welcome struct {
	Version uint16    `json:"version"`
	Clock   time.Time `json:"clock"`
}

// request asks for a certificate, in the version that welcome named.
type request struct {
	TokenID   string       `json:"tokenId"`
	Secret    string       `json:"secret"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// CSR is a PKCS #10 request in DER form.
	CSR []byte `json:"csr"`
	// Settings are what the host was told of what a cell has in common, by name.
	Settings map[string]string `json:"settings,omitempty"`
}

func (r *request) check() error {
	switch {
	case len(validation.IsDNS1123Subdomain(r.Name)) > 0:
		return fmt.Errorf("%w: %.64q is no node name", errMessage, r.Name)
	case len(r.CSR) == 0 || len(r.CSR) > maxRequestBytes:
		return fmt.Errorf("%w: a certificate request of %d bytes", errMessage, len(r.CSR))
	case len(r.Addresses) == 0 || len(r.Addresses) > maxAddresses:
		return fmt.Errorf("%w: %d addresses", errMessage, len(r.Addresses))
	case len(r.Settings) > maxSettings:
		return fmt.Errorf("%w: %d settings", errMessage, len(r.Settings))
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fmt.Errorf("%w: %s is no host's address", errMessage, a)
		}
	}
	return nil
}

// Grant is what a host gets that may join.
type Grant struct {
	// Certificate is the node's, CA the cell's authority, both in DER form.
	Certificate []byte `json:"certificate"`
	CA          []byte `json:"ca"`
	// GossipKeys is the cell's keyring; the first key encrypts.
	GossipKeys [][]byte `json:"gossipKeys"`
	// Peers are gossip addresses of the cell's members.
	Peers       []netip.AddrPort `json:"peers"`
	ServiceCIDR netip.Prefix     `json:"serviceCIDR"`
	// Tag is the new peer's number, unique in the cell.
	Tag uint16 `json:"tag"`
	// Settings are what all hosts of the cell have alike, by name.
	Settings map[string]string `json:"settings,omitempty"`
}

func (g *Grant) check() error {
	switch {
	case len(g.Certificate) == 0 || len(g.CA) == 0:
		return fmt.Errorf("%w: a grant without certificates", errMessage)
	case len(g.GossipKeys) == 0 || len(g.Peers) == 0 || len(g.Peers) > maxPeers:
		return fmt.Errorf("%w: a grant of %d gossip keys and %d peers", errMessage, len(g.GossipKeys), len(g.Peers))
	case g.Tag == 0 || g.Tag > 4095:
		return fmt.Errorf("%w: peer number %d, want 1 to 4095", errMessage, g.Tag)
	case len(g.Settings) > maxSettings:
		return fmt.Errorf("%w: a grant with %d settings", errMessage, len(g.Settings))
	case !g.ServiceCIDR.IsValid():
		return fmt.Errorf("%w: a grant without a service range", errMessage)
	}
	return nil
}

// answer is what a server says: one field of it is set.
type answer struct {
	Welcome *welcome `json:"welcome,omitempty"`
	Grant   *Grant   `json:"grant,omitempty"`
	Refusal *Refusal `json:"refusal,omitempty"`
}

func (a *answer) check() error {
	set := 0
	for _, has := range []bool{a.Welcome != nil, a.Grant != nil, a.Refusal != nil} {
		if has {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%w: an answer with %d meanings", errMessage, set)
	}
	if a.Grant != nil {
		return a.Grant.check()
	}
	return nil
}

func writeMessage(w io.Writer, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(data) > maxMessage {
		return fmt.Errorf("encode message: %d bytes, limit %d", len(data), maxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

func readMessage(r io.Reader, message any) error {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > maxMessage {
		return fmt.Errorf("%w: %d bytes, limit %d", errMessage, n, maxMessage)
	}
	// Read by growing: a length alone must not make us reserve memory.
	data, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(data) < int(n) {
		return io.ErrUnexpectedEOF
	}
	return decode(data, message)
}

// decode reads a message and checks what it may hold.
func decode(data []byte, message any) error {
	if err := json.Unmarshal(data, message); err != nil {
		return fmt.Errorf("%w: %w", errMessage, err)
	}
	if checked, ok := message.(interface{ check() error }); ok {
		return checked.check()
	}
	return nil
}
