// Package testpeer runs one peer's real API server for the tests below sched/:
// real storage, admission and authorization, no agent and no datapath. A
// process can hold one only, because the upstream server registers what it has
// globally; start it in TestMain.
package testpeer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/api"
	"shoal/api/pki"
	"shoal/store"
)

// Limit is how long a test waits for something before it calls it missing. It
// is far above what anything takes, also on a busy machine.
const Limit = 60 * time.Second

// Peer is a running API server.
type Peer struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	RootCA    []byte
	Log       *slog.Logger
	server    *api.Server
}

// published is what the `kubernetes` service points to; a loopback address may
// not stand there, and nothing here connects to it.
var published = netip.MustParseAddr("192.0.2.1")

// Config reaches the server as an administrator.
func (p *Peer) Config(component string) *rest.Config { return p.server.ClientConfig(component) }

// Main is a TestMain: it starts a peer, hands it to use, runs what use returns
// beside the tests, and stops everything.
func Main(m *testing.M, use func(*Peer) []func(context.Context) error) {
	code, err := run(m, use)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M, use func(*Peer) []func(context.Context) error) (code int, err error) {
	dir, err := os.MkdirTemp("", "shoal-sched-test-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := logger()

	db, err := store.Open(ctx, store.Options{Dir: filepath.Join(dir, "store"), Logger: log})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := open(ctx, dir, db, log)
	if err != nil {
		return 0, err
	}
	serving := make(chan error, 1)
	serverCtx, stopServer := context.WithCancel(ctx)
	go func() { serving <- p.server.Run(serverCtx) }()
	defer func() { stopServer(); err = errors.Join(err, <-serving) }()
	if err := p.await(ctx); err != nil {
		return 0, err
	}
	partsCtx, stopParts := context.WithCancel(ctx)
	ended := make(chan error)
	parts := use(p)
	for _, part := range parts {
		go func() { ended <- part(partsCtx) }()
	}
	code = m.Run()
	stopParts()
	for range parts {
		err = errors.Join(err, <-ended)
	}
	return code, err
}

// logger is silent unless SHOAL_TEST_LOG is set: tests provoke failures, and
// these are noisy.
func logger() *slog.Logger {
	if os.Getenv("SHOAL_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func open(ctx context.Context, dir string, db *store.DB, log *slog.Logger) (*Peer, error) {
	loopback := net.IPv4(127, 0, 0, 1)
	files, err := pki.Ensure(filepath.Join(dir, "pki"), pki.Names{Node: "test", IPs: []net.IP{loopback}}, time.Now())
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server, err := api.New(ctx, api.Options{
		DB: db, PKI: files, Listener: listener, Advertise: published, NodeName: "test",
		AgentPort: 10250, ServiceCIDR: api.DefaultServiceCIDR, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	p := &Peer{server: server, Informers: server.Informers(), Log: log}
	if p.RootCA, err = os.ReadFile(files.CA); err != nil {
		return nil, err
	}
	p.Client, err = kubernetes.NewForConfig(server.ClientConfig("test"))
	return p, err
}

func (p *Peer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	for {
		_, err := p.Client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("API server did not come up: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Namespace makes a namespace for one test and removes it afterwards.
func (p *Peer) Namespace(t testing.TB) string {
	t.Helper()
	ns, err := p.Client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

// Node makes a ready node with the given capacity and removes it afterwards.
func (p *Peer) Node(t testing.TB, name string, capacity map[v1.ResourceName]string) *v1.Node {
	t.Helper()
	node, err := p.Client.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	node.Status.Capacity = v1.ResourceList{}
	for name, amount := range capacity {
		node.Status.Capacity[name] = resource.MustParse(amount)
	}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	if node, err = p.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return node
}

// Eventually waits until check returns "", which is what is still missing.
func Eventually(t testing.TB, check func() string) {
	t.Helper()
	deadline := time.Now().Add(Limit)
	for {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still missing after %s: %s", Limit, missing)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
