// Package testpeer gives the tests below sched/ a peer's real API server, with
// the parts under test running beside it: no agent, no datapath. It adds to
// api/apitest what these tests share.
package testpeer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"shoal/api/apitest"
)

// Limit is how long a test waits for something before it calls it missing. It
// is far above what anything takes, also on a busy machine.
const Limit = 3 * time.Minute

// Peer is a running API server.
type Peer struct {
	*apitest.Peer
	RootCA []byte
	Log    *slog.Logger
}

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
	p := &Peer{Log: logger()}
	if p.Peer, err = apitest.Start(ctx, dir, p.Log); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	if p.RootCA, err = os.ReadFile(p.PKI.CA); err != nil {
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
	// Controllers may have marked it by now.
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if node, err = p.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		node.Status.Capacity = v1.ResourceList{}
		for name, amount := range capacity {
			node.Status.Capacity[name] = resource.MustParse(amount)
		}
		node.Status.Allocatable = node.Status.Capacity
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
		node, err = p.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
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
