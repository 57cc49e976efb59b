package clitest

import (
	"context"
	"net/http"
	"os"
	"path/filepath"

	"shoal/api"
	"shoal/api/control"
	v1 "shoal/api/control/v1"
	"shoal/api/pki"
)

// addControl serves what `shoal status` and its like ask for, for a cell of one
// peer with the real store and certificates.
func addControl(o *api.Options) {
	server := control.New(control.Options{Cell: "c0ffee", Store: o.DB, Host: host{o}, Logger: o.Logger})
	o.Extra = map[string]http.Handler{v1.Prefix: server}
}

// host is this machine without an agent: it cannot leave.
type host struct{ options *api.Options }

func (h host) Self() v1.Peer {
	return v1.Peer{Name: h.options.NodeName, Address: "192.0.2.1", API: h.options.Listener.Addr().String(), Version: "v1.2.3"}
}

func (h host) Certificates() ([]v1.Certificate, error) {
	found, err := h.options.PKI.Validities()
	var list []v1.Certificate
	for _, c := range found {
		list = append(list, v1.Certificate(c))
	}
	return list, err
}

func (h host) Disk() (v1.Disk, error) {
	return v1.Disk{Path: h.options.PKI.Dir, FreeBytes: 1 << 30, TotalBytes: 100 << 30}, nil
}

func (h host) Paths() []v1.Path { return nil }

func (h host) CellFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range pki.CellFiles() {
		content, err := os.ReadFile(filepath.Join(h.options.PKI.Dir, name))
		if err != nil {
			return nil, err
		}
		files["pki/"+name] = content
	}
	return files, nil
}

func (h host) RemoveNode(context.Context, string) error { return nil }
func (h host) Depart(context.Context, bool) error       { return nil }
func (h host) Quit()                                    {}
