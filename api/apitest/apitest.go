// Package apitest runs one peer's real API server for tests: real storage,
// admission and authorization over TLS on loopback, with no agent and no
// datapath.
//
// A process can hold one only, because the upstream server registers what it
// has globally; start it in TestMain, or in a package with one test.
package apitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"shoal/api"
	"shoal/api/pki"
	"shoal/store"
)

// limit is how long the API may take to come up before it is called missing.
// It is far above what it takes, also on a busy machine.
const limit = time.Minute

// published is what the `kubernetes` service points to; a loopback address may
// not stand there, and nothing in these tests connects to it.
var published = netip.MustParseAddr("192.0.2.1")

// Peer is a running API server.
type Peer struct {
	*api.Server
	DB  *store.DB
	PKI pki.Files
	// URL is where clients with a certificate reach it.
	URL string
	// Client is an administrator's, in the process.
	Client kubernetes.Interface

	stop   context.CancelFunc
	served chan error
}

// Start serves the API until Stop. Everything it keeps is below dir. extend, if
// any, may add to the options once the store is open.
func Start(ctx context.Context, dir string, log *slog.Logger, extend ...func(*api.Options)) (*Peer, error) {
	return StartOn(ctx, dir, log, store.Options{}, extend...)
}

// StartOn is Start with a store opened by options, but for the directory.
func StartOn(ctx context.Context, dir string, log *slog.Logger, storeOptions store.Options, extend ...func(*api.Options)) (*Peer, error) {
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
	loopback := net.IPv4(127, 0, 0, 1)
	files, err := pki.Ensure(filepath.Join(dir, "pki"), pki.Names{Node: "host1", DNS: []string{"localhost"}, IPs: []net.IP{loopback}}, time.Now())
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	storeOptions.Dir, storeOptions.Logger = filepath.Join(dir, "store"), log
	db, err := store.Open(ctx, storeOptions)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	p := &Peer{DB: db, PKI: files, URL: "https://" + listener.Addr().String(), served: make(chan error, 1)}
	ctx, p.stop = context.WithCancel(ctx)
	options := api.Options{
		DB: db, PKI: files, Listener: listener, Advertise: published, NodeName: "host1",
		AgentPort: 10250, ServiceCIDR: api.DefaultServiceCIDR, Logger: log,
	}
	for _, e := range extend {
		e(&options)
	}
	p.Server, err = api.New(ctx, options)
	if err == nil {
		p.Client, err = kubernetes.NewForConfig(p.ClientConfig("apitest"))
	}
	if err != nil {
		p.stop()
		return nil, errors.Join(err, listener.Close(), db.Close())
	}
	go func() { p.served <- p.Run(ctx) }()
	ready, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := p.AwaitReady(ready); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	// The Node authorizer and NodeRestriction know pods and nodes from these.
	p.Informers().Start(ctx.Done())
	return p, nil
}

// AsNode is the configuration of a client that acts as the node called name,
// over TLS with a certificate of its own.
func (p *Peer) AsNode(name string) (*rest.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := pki.NewIssuer(p.PKI).SignNode(key.Public(), name, nil, time.Now())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &rest.Config{Host: p.URL, TLSClientConfig: rest.TLSClientConfig{
		CAFile:   p.PKI.CA,
		CertData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		KeyData:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	}}, nil
}

// Stop ends the server and closes its store.
func (p *Peer) Stop() error {
	p.stop()
	return errors.Join(<-p.served, p.DB.Close())
}
