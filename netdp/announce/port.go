package announce

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// port is an interface on which questions are answered.
type port struct {
	index    int
	mac      net.HardwareAddr
	arp, ndp *os.File // nil while there is no address of the family
	// groups are joined by groupsFD, which is -1 without any.
	groups   map[netip.Addr]struct{}
	groupsFD int
}

// outgoing is what is to be sent about an address.
type outgoing struct {
	what   string // for people
	about  netip.Addr
	socket *os.File
	frames [][]byte
}

// tell announces an address unasked.
func (p *port) tell(a netip.Addr) outgoing {
	return outgoing{"announce an address", a, p.socket(a), unasked(a, p.mac)}
}

// probe asks whether somebody has an address.
func (p *port) probe(a netip.Addr) outgoing {
	return outgoing{"probe an address", a, p.socket(a), [][]byte{probe(a, p.mac)}}
}

// socket is that of an address's family, nil while there is none.
func (p *port) socket(about netip.Addr) *os.File {
	if about.Is4() {
		return p.arp
	}
	return p.ndp
}

// send may wait for the interface, until the socket is closed.
func (o outgoing) send() error {
	if o.socket == nil {
		return nil
	}
	var errs []error
	for _, frame := range o.frames {
		_, err := o.socket.Write(frame)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// setGroups joins and leaves the groups at which the addresses are asked for, and
// that at which holders say so. It runs in the interface's namespace.
func (p *port) setGroups(addresses map[netip.Addr]*held) error {
	want := map[netip.Addr]struct{}{}
	for a := range addresses {
		if a.Is6() {
			want[solicitedNode(a)], want[allNodes] = struct{}{}, struct{}{}
		}
	}
	var err error
	if p.groupsFD < 0 && len(want) > 0 {
		if p.groupsFD, err = openGroups(); err != nil {
			return err
		}
	}
	var errs []error
	for g := range p.groups {
		if _, ok := want[g]; !ok {
			_ = leaveGroup(p.groupsFD, p.index, g) // it went with the interface
			delete(p.groups, g)
		}
	}
	for g := range want {
		if _, ok := p.groups[g]; ok {
			continue
		}
		if err := joinGroup(p.groupsFD, p.index, g); err != nil {
			errs = append(errs, err)
			continue
		}
		p.groups[g] = struct{}{}
	}
	return errors.Join(errs...)
}

func (p *port) close() {
	for _, socket := range []*os.File{p.arp, p.ndp} {
		if socket != nil {
			_ = socket.Close()
		}
	}
	if p.groupsFD >= 0 {
		_ = unix.Close(p.groupsFD)
	}
}
