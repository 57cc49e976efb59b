//go:build linux

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"shoal/agent"
	"shoal/agent/image"
	"shoal/api/pki"
)

const (
	// peerDial bounds connecting to another host's agent.
	peerDial = 3 * time.Second
	// peerIdle is how long a connection to one is kept without use.
	peerIdle = 30 * time.Second
	// peerIdleEach bounds kept connections to one host.
	peerIdleEach = 4
)

// bytesPerMbit are the bytes of a million bits.
const bytesPerMbit = 125_000

// images is where this host's images come from.
func (c Config) images(peers image.Peers) agent.Images {
	return agent.Images{Peers: peers, ShareRate: int64(c.ImageShareMbit) * bytesPerMbit, Directory: c.ImageDir}
}

// imagePeers are the other hosts of the cell to package image: gossip says who
// answers, their Nodes say where their agents are, and this host asks them with
// the certificate its API server has.
type imagePeers struct {
	self   string
	cell   *cellNode
	nodes  corelisters.NodeLister
	client *http.Client
}

var _ image.Peers = (*imagePeers)(nil)

func (p *peer) imagePeers() (*imagePeers, error) {
	pem, err := os.ReadFile(p.files.CA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair := pki.NewPair(p.files.AgentClient, p.files.AgentClientKey)
	return &imagePeers{
		self: p.config.Name, cell: p.node, nodes: p.server.Informers().Core().V1().Nodes().Lister(),
		client: &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: peerDial}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots, GetClientCertificate: pair.ForClient, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: peerDial, IdleConnTimeout: peerIdle, MaxIdleConnsPerHost: peerIdleEach,
		}},
	}, nil
}

// Alive implements image.Peers.
func (p *imagePeers) Alive() []string {
	var out []string
	for _, name := range p.cell.Names() {
		if name != p.self {
			out = append(out, name)
		}
	}
	return out
}

// Agent implements image.Peers.
func (p *imagePeers) Agent(name string) string {
	node, err := p.nodes.Get(name)
	if err != nil {
		return ""
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range node.Status.Addresses {
		if a.Type == v1.NodeInternalIP && port > 0 {
			return "https://" + net.JoinHostPort(a.Address, strconv.Itoa(int(port)))
		}
	}
	return ""
}

// Do implements image.Peers.
func (p *imagePeers) Do(r *http.Request) (*http.Response, error) { return p.client.Do(r) }
