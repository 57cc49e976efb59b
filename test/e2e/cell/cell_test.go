package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "shoal/api/control/v1"
	"shoal/test/harness"
)

const (
	// settleWithin bounds every wait for the cell to reach a state. Nothing is
	// asserted about speed here: that is what test/bench prints.
	settleWithin = 4 * time.Minute
	// answerWithin is a patient client's own timeout for one request.
	answerWithin = 20 * time.Second
)

// peer is a client's way to one peer.
type peer struct {
	number int
	name   string
	config *rest.Config
	// kube gives up on a request after answerWithin; stream never, for watches.
	kube, stream kubernetes.Interface
	objects      dynamic.Interface
}

var peers [nodes + 1]*peer // by number, from 1

func connectAll() error {
	for n := 1; n <= nodes; n++ {
		p, err := connect(n)
		if err != nil {
			return err
		}
		peers[n] = p
	}
	return nil
}

func connect(n int) (*peer, error) {
	config, err := cell.Config(n)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{} // every type is listed, also the old ones
	bounded := rest.CopyConfig(config)
	bounded.Timeout = answerWithin
	p := &peer{number: n, name: fmt.Sprintf("lab-%d", n), config: config}
	if p.stream, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if p.kube, err = kubernetes.NewForConfig(bounded); err != nil {
		return nil, err
	}
	p.objects, err = dynamic.NewForConfig(bounded)
	return p, err
}

// all are the peers, or those of the given numbers.
func all(numbers ...int) []*peer {
	if len(numbers) == 0 {
		return peers[1:]
	}
	var some []*peer
	for _, n := range numbers {
		some = append(some, peers[n])
	}
	return some
}

func (p *peer) status(ctx context.Context) (*v1.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	data, err := p.kube.Discovery().RESTClient().Get().AbsPath(v1.StatusPath).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	status := new(v1.Status)
	return status, json.Unmarshal(data, status)
}

// eventually waits until check returns nil, and returns how long that took.
func eventually(t *testing.T, what string, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(t.Context(), settleWithin, errors.New("it did not happen in time"))
	defer cancel()
	if err := harness.Until(ctx, 50*time.Millisecond, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began).Round(time.Millisecond)
}

// ok fails the test on an error of what has to work.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is a context for one change of the lab.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), labWithin)
	t.Cleanup(cancel)
	return ctx
}

// whole makes the lab as it was at first: every link good, every peer up, all
// Ready and equal.
func whole(t *testing.T) {
	t.Helper()
	ok(t, cell.Heal(within(t)))
	found, err := cell.Peers(t.Context())
	ok(t, err)
	for _, p := range found {
		if p.Killed || p.Pid == 0 {
			ok(t, cell.Start(within(t), p.Number))
		}
	}
	for _, p := range all() {
		eventually(t, p.name+" sees all peers Ready", func() error { return p.allReady(t.Context()) })
	}
	converged(t)
}

func (p *peer) allReady(ctx context.Context) error {
	list, err := p.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) != nodes {
		return fmt.Errorf("%d nodes", len(list.Items))
	}
	for i := range list.Items {
		if s := readiness(&list.Items[i]); s != corev1.ConditionTrue {
			return fmt.Errorf("Ready of %s is %s", list.Items[i].Name, s)
		}
	}
	return nil
}

func readiness(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// space makes a namespace of the test's own, which goes away with it.
func space(t *testing.T, at *peer) string {
	t.Helper()
	name := "t-" + strings.ToLower(strings.TrimPrefix(strings.ReplaceAll(t.Name(), "/", "-"), "Test"))
	_, err := at.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	ok(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
		defer cancel()
		now := int64(0)
		err := errors.Join(
			peers[1].kube.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}),
			peers[1].kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}),
		)
		if err != nil {
			t.Errorf("remove namespace %s: %v", name, err)
		}
	})
	for _, p := range all() {
		// Pods are refused until the namespace has its service account.
		eventually(t, "namespace "+name+" on "+p.name, func() error {
			_, err := p.kube.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
			return err
		})
	}
	return name
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

// kubectl runs the stock kubectl against a peer.
func (p *peer) kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	result := p.runKubectl(t, input, args...)
	ok(t, result.Err)
	return result.Stdout
}

func (p *peer) runKubectl(t *testing.T, input string, args ...string) harness.Result {
	t.Helper()
	program, err := harness.Binary(".cache/bin/kubectl")
	ok(t, err)
	file := filepath.Join(world.Dir, p.name+".kubeconfig")
	config, err := cell.Kubeconfig(p.number)
	ok(t, err)
	ok(t, os.WriteFile(file, config, 0o600))
	command := harness.Command{Argv: append([]string{program, "--kubeconfig", file, "--cache-dir", filepath.Join(world.Dir, "cache")}, args...)}
	if input != "" {
		command.Stdin = strings.NewReader(input)
	}
	return command.Run(t.Context())
}

// shoal runs a command of shoal on a peer's host.
func (p *peer) shoal(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cell.Output(t.Context(), p.number, append([]string{"shoal"}, args...)...)
	ok(t, err)
	return out
}

// daemonLog is what the peer's daemon has logged, all runs of it.
func (p *peer) daemonLog(t *testing.T) []byte {
	t.Helper()
	log, err := os.ReadFile(cell.LogPath(p.number))
	ok(t, err)
	return log
}

// leader finds the peer that leads some work by the peers' logs.
func leader(t *testing.T, work string) (*peer, error) {
	t.Helper()
	for _, p := range all() {
		log := p.daemonLog(t)
		// What an earlier run of the daemon led ended with it.
		leads := bytes.LastIndex(log, []byte(`msg="this peer leads" part=lead work=`+work))
		ended := max(
			bytes.LastIndex(log, []byte(`msg="this peer no longer leads" part=lead work=`+work)),
			bytes.LastIndex(log, []byte("✓ store opened")),
		)
		if leads > ended {
			return p, nil
		}
	}
	return nil, errors.New("nobody leads " + work)
}

// others are all peers but some.
func others(but ...*peer) []*peer {
	return slices.DeleteFunc(slices.Clone(peers[1:]), func(p *peer) bool { return slices.Contains(but, p) })
}
