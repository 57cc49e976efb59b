package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "shoal/api/control/v1"
)

// onePeer is what a cell of one says where others are needed.
const onePeer = "this cell has one peer"

// leave takes this peer out of the cell and ends its daemon.
func (s *Server) leave(r *http.Request) (any, error) {
	var request v1.LeaveRequest
	if err := read(r, &request); err != nil {
		return nil, err
	}
	self := s.Host.Self().Name
	if request.Peer != self {
		return nil, refusef(http.StatusConflict, "this is peer %s, not %s; ask that one with --peer %s", self, request.Peer, request.Peer)
	}
	if s.others() == 0 {
		return nil, refusef(http.StatusConflict, "%s, %s: nothing would be left of it\nTo stop it use `shoal stop --pods`; to end it remove its data directory after that.", onePeer, self)
	}
	s.Logger.Info("leaving the cell", "user", user(r), "keepPods", request.KeepPods)
	// The Node goes while this peer can still tell the others: without it its
	// pods are deleted, and made anew elsewhere.
	if err := s.Host.Depart(r.Context(), request.KeepPods); err != nil {
		return nil, fmt.Errorf("take %s out of service: %w; it is still a member: try again, or stop the daemon and run `shoal node forget %s` elsewhere", self, err, self)
	}
	if err := s.Members.Leave(r.Context()); err != nil {
		return nil, fmt.Errorf("tell the cell: %w; stop the daemon and run `shoal node forget %s` elsewhere", err, self)
	}
	s.Host.Quit()
	pods := "its pods are stopped and start elsewhere"
	if request.KeepPods {
		pods = "its containers go on without a cell"
	}
	return v1.Answer{Message: fmt.Sprintf("%s has left the cell and its daemon ends; %s", self, pods)}, nil
}

// others counts the peers that are there beside this one.
func (s *Server) others() int {
	n := 0
	self := s.Host.Self().Name
	for _, p := range s.peers() {
		if p.Name != self && p.State != v1.Left {
			n++
		}
	}
	return n
}

// forget removes a member that is gone, and its Node object.
func (s *Server) forget(r *http.Request) (any, error) {
	var request v1.ForgetRequest
	if err := read(r, &request); err != nil {
		return nil, err
	}
	peers := s.peers()
	i := slices.IndexFunc(peers, func(p v1.Peer) bool { return p.Name == request.Name })
	switch {
	case i < 0:
		return nil, refusef(http.StatusNotFound, "no peer is called %q; there are: %s\nIf only its Node object is left, remove that with `shoal delete node %s`.", request.Name, names(peers), request.Name)
	case peers[i].Name == s.Host.Self().Name && len(peers) == 1:
		return nil, refusef(http.StatusConflict, "%s, %s: there is none to forget", onePeer, request.Name)
	case peers[i].State == v1.Alive:
		return nil, refusef(http.StatusConflict, "%s is alive; let it leave with `shoal leave %s`, or stop it first. If it died just now, try again in some seconds, when `shoal status` shows it as failed", request.Name, request.Name)
	}
	s.Logger.Info("forgetting a peer", "name", request.Name, "user", user(r))
	if err := s.Members.Forget(r.Context(), request.Name); err != nil {
		return nil, fmt.Errorf("forget %s: %w", request.Name, err)
	}
	if err := s.Host.RemoveNode(r.Context(), request.Name); err != nil {
		return nil, fmt.Errorf("remove node %s: %w; the member is forgotten, remove its node with `shoal delete node %s`", request.Name, err, request.Name)
	}
	return v1.Answer{Message: fmt.Sprintf("%s is forgotten; should it come back, it joins anew", request.Name)}, nil
}

func (s *Server) rotateKeys(r *http.Request) (any, error) {
	if s.others() == 0 {
		return nil, refusef(http.StatusConflict, "%s: it gossips with nobody, there is no key to rotate", onePeer)
	}
	s.Logger.Info("rotating the gossip key", "user", user(r))
	if err := s.Members.RotateKeys(r.Context()); err != nil {
		return nil, fmt.Errorf("rotate the gossip key: %w", err)
	}
	return v1.Answer{Message: "the gossip key was replaced on all peers"}, nil
}

func (s *Server) setEncryption(r *http.Request) (any, error) {
	var request v1.EncryptionRequest
	if err := read(r, &request); err != nil {
		return nil, err
	}
	changed, err := s.Encryption.SetEncryption(r.Context(), request.On)
	if err != nil {
		return nil, fmt.Errorf("switch encryption: %w", err)
	}
	state := map[bool]string{true: "on", false: "off"}[request.On]
	if !changed {
		return v1.Answer{Message: "encryption between hosts is " + state + " already"}, nil
	}
	s.Logger.Info("encryption between hosts was switched", "on", request.On, "user", user(r))
	return v1.Answer{Message: "encryption between hosts is " + state + "; each host follows by itself, and shoal status shows its ways"}, nil
}

func names(peers []v1.Peer) string {
	list := make([]string, len(peers))
	for i, p := range peers {
		list[i] = p.Name
	}
	return strings.Join(list, ", ")
}
