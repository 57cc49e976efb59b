package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"shoal/agent/internal/testbed"
	"shoal/api/apitest"
)

// peer is the one API server of these tests.
var peer *apitest.Peer

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "shoal-agent-api-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if peer, err = apitest.Start(context.Background(), dir, slog.New(slog.DiscardHandler)); err != nil {
		return 1, err
	}
	ctx := context.Background()
	if _, err := peer.Client.CoreV1().ServiceAccounts("default").Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return 1, err
	}
	ca := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "the CA"}}
	if _, err := peer.Client.CoreV1().ConfigMaps("default").Create(ctx, ca, metav1.CreateOptions{}); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, peer.Stop()
}

// limit bounds every wait; it is never what is tested.
const limit = 3 * time.Minute

// host is an agent on a containerd and a network of its own.
type host struct {
	t       testing.TB
	ctrd    *testbed.Containerd
	network *testbed.Network
	name    string
	options Options
	agent   *Agent
	cancel  context.CancelFunc
	done    chan error
}

func newHost(t testing.TB, name string, change ...func(*Options)) *host {
	t.Helper()
	return newHostOn(t, "", name, change...)
}

// newHostOn is one whose images are on a disk of that size, such as 64M.
func newHostOn(t testing.TB, size, name string, change ...func(*Options)) *host {
	t.Helper()
	h := &host{t: t, ctrd: testbed.StartContainerdOn(t, size), name: name}
	dir := t.TempDir()
	h.network = &testbed.Network{Dir: filepath.Join(dir, "net"), Prefix: "sa"}
	config, err := peer.AsNode(name)
	if err != nil {
		t.Fatal(err)
	}
	h.options = Options{
		NodeName: name, Config: config, ContainerdSocket: h.ctrd.Socket, ContainerdNamespace: testbed.Namespace,
		CgroupRoot: fmt.Sprintf("/shoalagent%d", os.Getpid()), DataDir: dir, LogDir: filepath.Join(dir, "logs"), Network: h.network,
		NodeIPs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }, PodCIDRs: []string{"10.99.0.0/24"}, ListenAddr: "127.0.0.1:0",
		TLS: serverTLS(t), Version: "v1.37.0", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		// How full this machine is says nothing about the tests.
		Resources: Resources{EvictionHard: "none"},
	}
	for _, c := range change {
		c(&h.options)
	}
	h.start()
	t.Cleanup(h.finish)
	h.load()
	return h
}

func serverTLS(t testing.TB) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(peer.PKI.AgentServer, peer.PKI.AgentServerKey)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(peer.PKI.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: roots}
}

func (h *host) start() {
	h.t.Helper()
	var err error
	if h.agent, err = New(h.options); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, done := h.agent, make(chan error, 1)
	h.cancel, h.done = cancel, done
	go func() { done <- a.Run(ctx) }()
	h.node(v1.ConditionTrue)
}

// stop ends the agent if it runs; pods stay.
func (h *host) stop() {
	h.t.Helper()
	if h.done == nil {
		return
	}
	h.cancel()
	if err := <-h.done; err != nil {
		h.t.Errorf("run: %v", err)
	}
	h.done = nil
}

// finish takes everything of the host away, also when its agent is stopped.
func (h *host) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if h.done == nil {
		if err := Clear(ctx, h.options); err != nil {
			h.t.Error(err)
		}
		return
	}
	if err := h.agent.StopPods(ctx); err != nil {
		h.t.Error(err)
	}
	h.stop()
}

// admin is an administrator over the network, as kubectl is.
func (h *host) admin() (*rest.Config, kubernetes.Interface) {
	config := &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA, CertFile: peer.PKI.Admin, KeyFile: peer.PKI.AdminKey}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		h.t.Fatal(err)
	}
	return config, client
}

// load imports the test image as the API server's node proxy would, which
// itself refuses loopback addresses.
func (h *host) load() {
	h.t.Helper()
	out := h.request(http.MethodPost, imagesPath, bytes.NewReader(testbed.Archive(h.t, "box:latest")), http.StatusOK)
	if !strings.Contains(out, `"done":true`) || strings.Contains(out, `"error"`) {
		h.t.Fatalf("load image: %s", out)
	}
}

// request asks the agent with the API server's own certificate.
func (h *host) request(method, path string, body io.Reader, want int) string {
	h.t.Helper()
	config, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{
		CAFile: peer.PKI.CA, CertFile: peer.PKI.AgentClient, KeyFile: peer.PKI.AgentClientKey}})
	if err != nil {
		h.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+h.agent.o.ListenAddr+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		h.t.Fatalf("%s %s: %s, %q, %v", method, path, resp.Status, data, err)
	}
	return string(data)
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

func (h *host) node(want v1.ConditionStatus) *v1.Node {
	h.t.Helper()
	var node *v1.Node
	h.eventually("node to be ready: "+string(want), func() bool {
		var err error
		if node, err = peer.Client.CoreV1().Nodes().Get(context.Background(), h.name, metav1.GetOptions{}); err != nil {
			return false
		}
		for _, c := range node.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status == want {
				return true
			}
		}
		return false
	})
	return node
}

const sleeper = `trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done`

func (h *host) create(name, script string) *v1.Pod {
	h.t.Helper()
	grace := int64(1)
	pod, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", script}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return pod
}

func (h *host) running(name string) *v1.Pod {
	h.t.Helper()
	var pod *v1.Pod
	h.eventually(name+" to be ready", func() bool {
		var err error
		pod, err = peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == v1.PodRunning && len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].Ready
	})
	return pod
}

func (h *host) delete(name string) {
	h.t.Helper()
	if err := peer.Client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		h.t.Fatal(err)
	}
	h.eventually(name+" to be gone", func() bool {
		_, err := peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestWholePath walks one pod through the real API server.
func TestWholePath(t *testing.T) {
	h := newHost(t, "whole")
	node := h.node(v1.ConditionTrue)
	if node.Status.Allocatable.Pods().Value() != MaxPods || node.Status.Allocatable.Memory().IsZero() || node.Spec.PodCIDR != "10.99.0.0/24" ||
		node.Status.NodeInfo.KubeletVersion != "v1.37.0" || !strings.HasPrefix(node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://") {
		t.Errorf("node: %+v", node.Status)
	}
	h.create("web", `head -c 4 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; echo; echo host $KUBERNETES_SERVICE_HOST; echo hello; echo oops >&2; `+sleeper)
	pod := h.running("web")
	if pod.Status.PodIP == "" || pod.Status.HostIP != "127.0.0.1" {
		t.Errorf("status: %+v", pod.Status)
	}
	config, client := h.admin()
	h.eventually("the log", func() bool {
		data, err := client.CoreV1().Pods("default").GetLogs("web", &v1.PodLogOptions{}).DoRaw(context.Background())
		return err == nil && strings.Contains(string(data), "the \nhost 10.0.0.1\nhello\n") && strings.Contains(string(data), "oops\n")
	})
	one := int64(1)
	data, err := client.CoreV1().Pods("default").GetLogs("web", &v1.PodLogOptions{TailLines: &one, Timestamps: true}).DoRaw(context.Background())
	if err != nil || strings.Count(string(data), "\n") != 1 || !strings.HasPrefix(string(data), "20") {
		t.Errorf("last line: %q, %v", data, err)
	}
	h.followsLog(client)
	h.execs(config, client)
	h.eventually("events", func() bool {
		list, err := client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=web,reason=Started"})
		return err == nil && len(list.Items) == 1 && list.Items[0].InvolvedObject.FieldPath == "spec.containers{main}" && list.Items[0].ReportingController == "kubelet"
	})
	if out := h.request(http.MethodGet, imagesPath, nil, http.StatusOK); !strings.Contains(out, "docker.io/library/box:latest") {
		t.Errorf("images: %s", out)
	}
	if out := h.request(http.MethodGet, "/pods", nil, http.StatusOK); !strings.Contains(out, `"name":"web"`) {
		t.Errorf("pods: %s", out)
	}
	h.request(http.MethodDelete, imagesPath+"?ref=nothere", nil, http.StatusNotFound)
	h.request(http.MethodGet, "/containerLogs/default/none/main", nil, http.StatusNotFound)
	h.delete("web")
}

func (h *host) followsLog(client kubernetes.Interface) {
	h.t.Helper()
	h.create("talker", `echo first; until stat /go >/dev/null 2>&1; do sleep 0.02; done; echo second`)
	h.running("talker")
	stream, err := client.CoreV1().Pods("default").GetLogs("talker", &v1.PodLogOptions{Follow: true}).Stream(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	defer stream.Close()
	buf := make([]byte, 6)
	if _, err := io.ReadFull(stream, buf); err != nil || string(buf) != "first\n" {
		h.t.Errorf("followed %q, %v", buf, err)
	}
	config, _ := h.admin()
	if _, err := h.exec(config, client, "talker", nil, "touch", "/go"); err != nil {
		h.t.Error(err)
	}
	rest, err := io.ReadAll(stream)
	if err != nil || string(rest) != "second\n" {
		h.t.Errorf("followed %q to the end, %v", rest, err)
	}
	h.delete("talker")
}

func (h *host) exec(config *rest.Config, client kubernetes.Interface, pod string, in io.Reader, command ...string) (string, error) {
	req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("exec").
		VersionedParams(&v1.PodExecOptions{Container: "main", Command: command, Stdin: in != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(config, "GET", req.URL().String())
	if err != nil {
		return "", err
	}
	var out, errOut bytes.Buffer // two: each is written by its own goroutine
	err = executor.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: &errOut})
	return out.String() + errOut.String(), err
}

func (h *host) execs(config *rest.Config, client kubernetes.Interface) {
	h.t.Helper()
	out, err := h.exec(config, client, "web", strings.NewReader("input"), "cat")
	if err != nil || out != "input" {
		h.t.Errorf("exec cat: %q, %v", out, err)
	}
	_, err = h.exec(config, client, "web", nil, "sh", "-c", "exit 3")
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 3 {
		h.t.Errorf("exec of a failing command: %v", err)
	}
	if _, err := h.exec(config, client, "web", nil, "/no/such"); err == nil {
		h.t.Error("exec of a missing command succeeds")
	}
}

// TestRestart: a new agent adopts what the old one left, as after a crash.
func TestRestart(t *testing.T) {
	h := newHost(t, "restart")
	h.create("kept", sleeper)
	h.create("dropped", sleeper)
	id := h.running("kept").Status.ContainerStatuses[0].ContainerID
	h.running("dropped")
	h.stop()
	zero := int64(0)
	if err := peer.Client.CoreV1().Pods("default").Delete(context.Background(), "dropped", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.eventually("the deleted pod's network to go", func() bool {
		attached, _ := h.network.Attached(context.Background())
		return len(attached) == 1
	})
	pod := h.running("kept")
	if c := pod.Status.ContainerStatuses[0]; c.ContainerID != id || c.RestartCount != 0 {
		t.Errorf("after the restart: %+v, before %s", c, id)
	}
	h.delete("kept")
}

// TestContainerdDown: the node says so, and recovers.
func TestContainerdDown(t *testing.T) {
	h := newHost(t, "down")
	h.ctrd.Kill(t)
	for _, c := range h.node(v1.ConditionFalse).Status.Conditions {
		if c.Type == v1.NodeReady && !strings.Contains(c.Message, "container runtime is down") {
			t.Errorf("condition: %+v", c)
		}
	}
	h.ctrd.Start(t)
	h.node(v1.ConditionTrue)
	h.create("after", sleeper)
	h.running("after")
	h.delete("after")
}

// What a network driver finds after longer than containerd is waited for counts: its
// plugins may hang.
func TestNetworkIsAskedWithoutContainerdsLimit(t *testing.T) {
	var hangs atomic.Bool
	h := newHost(t, "network", func(o *Options) {
		o.NetworkReady = func(ctx context.Context) error {
			if !hangs.Load() {
				return nil
			}
			if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= containerdTimeout {
				<-ctx.Done() // as a plugin that hangs would
				return ctx.Err()
			}
			return errors.New("a plugin did not end")
		}
	})
	h.node(v1.ConditionTrue)
	hangs.Store(true)
	for _, c := range h.node(v1.ConditionFalse).Status.Conditions {
		if c.Type == v1.NodeReady && !strings.Contains(c.Message, "a plugin did not end") {
			t.Errorf("the node says %q", c.Message)
		}
	}
}

// TestWhatOthersSayOfTheNode: a host that others took for failed says at once
// that it is there, also when its Node was deleted.
func TestWhatOthersSayOfTheNode(t *testing.T) {
	h := newHost(t, "said")
	nodes := peer.Client.CoreV1().Nodes()
	for range 3 {
		node := h.node(v1.ConditionTrue)
		for i := range node.Status.Conditions {
			node.Status.Conditions[i].Status = v1.ConditionUnknown
		}
		if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		h.node(v1.ConditionTrue)
	}
	uid := h.node(v1.ConditionTrue).UID
	if err := nodes.Delete(t.Context(), h.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the node to register again", func() bool {
		node, err := nodes.Get(t.Context(), h.name, metav1.GetOptions{})
		return err == nil && node.UID != uid
	})
	h.node(v1.ConditionTrue)
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := Options{NodeName: "n", Config: peer.ClientConfig("x"), Network: &testbed.Network{}, DataDir: t.TempDir(), ListenAddr: "127.0.0.1:0"}
	for want, change := range map[string]func(*Options){
		"no node name":     func(o *Options) { o.NodeName = "" },
		"no network":       func(o *Options) { o.Network = nil },
		"already in use":   func(o *Options) { o.ListenAddr = taken.Addr().String() },
		"start containerd": func(o *Options) { o.ContainerdSocket = "/no/such.sock" },
		"no API server":    func(o *Options) { o.Config = nil },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}
