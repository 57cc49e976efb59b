package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "shoal/api/control/v1"
)

func (s *Server) status(r *http.Request) (any, error) {
	certificates, err := s.Host.Certificates()
	if err != nil {
		return nil, err
	}
	disk, err := s.Host.Disk()
	if err != nil {
		return nil, err
	}
	stats, prints := s.Store.Stats(), s.Store.Fingerprints()
	status := v1.Status{
		Cell:         s.Cell,
		Peer:         s.Host.Self().Name,
		Time:         s.Now().UTC(),
		Peers:        s.peers(),
		Paths:        s.Host.Paths(),
		Certificates: certificates,
		Disk:         disk,
		Store: v1.Store{Records: stats.Records, Tombstones: stats.Tombstones, DiskBytes: stats.DiskBytes,
			Watchers: stats.Watchers, Root: fmt.Sprintf("%016x", prints.Root()), Refusing: stats.Refusing},
	}
	if s.Encryption != nil {
		on, err := s.Encryption.Encrypts(r.Context())
		if err != nil {
			return nil, err
		}
		status.Encryption = map[bool]string{true: v1.EncryptionWireGuard, false: v1.EncryptionOff}[on]
	}
	if host, ok := s.Host.(Encrypting); ok {
		status.EncryptedBy = host.EncryptedBy()
	}
	status.Alarms = alarms(&status)
	if host, ok := s.Host.(Alarming); ok {
		status.Alarms = append(status.Alarms, host.Alarms()...)
	}
	if s.Members != nil {
		status.Alarms = append(status.Alarms, s.Members.Alarms()...)
	}
	order(status.Alarms)
	return &status, nil
}

// peers are all members, sorted by name; what only this host knows of itself is
// filled in.
func (s *Server) peers() []v1.Peer {
	self := s.Host.Self()
	self.Actor = fmt.Sprintf("%016x", uint64(s.Store.Actor()))
	if s.Members == nil {
		self.State, self.LagDeltas = v1.Alive, new(uint64)
		return []v1.Peer{self}
	}
	peers := s.Members.Peers()
	for i := range peers {
		if p := &peers[i]; p.Name == self.Name {
			p.Address, p.API, p.Version, p.Kubernetes, p.Actor = self.Address, self.API, self.Version, self.Kubernetes, self.Actor
		}
	}
	slices.SortFunc(peers, func(a, b v1.Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// order puts the worst first.
func order(alarms []v1.Alarm) {
	slices.SortStableFunc(alarms, func(a, b v1.Alarm) int {
		if a.Severity != b.Severity {
			if a.Severity == v1.Critical {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Code, b.Code)
	})
}
