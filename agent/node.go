package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"shoal/agent/cgroup"
	"shoal/agent/image"
	"shoal/agent/shutdown"
)

// MaxPods is the number of pods a host takes. A host has a /24 for them.
const MaxPods = 250

const (
	// nodeRefresh is the longest a node's status goes without being looked
	// at again; nothing is written when nothing changed.
	nodeRefresh = 5 * time.Minute
	// containerdProbe is how often an unreachable containerd is asked.
	containerdProbe = time.Second
	// containerdCheck is how often one that seems to be there is asked, since a
	// process that hangs keeps its connections; containerdHangs is when it does.
	containerdCheck = 10 * time.Second
	containerdHangs = 5 * time.Second
)

// node keeps this host's Node object.
type node struct {
	o      Options
	kube   kubernetes.Interface
	client *containerd.Client
	groups *cgroup.Tree
	// pressure gives the conditions of pressure.
	pressure func() []v1.NodeCondition
	images   *image.Store // nil: its images are not told
	// devices gives what device plugins have and what is healthy; nil: there
	// are none.
	devices func() (capacity, allocatable v1.ResourceList)
	users   func() error // why pods have no user namespaces here

	mu             sync.Mutex
	alloc          v1.ResourceList     // guarded by mu
	live           *v1.Node            // as the API last told; nil before; guarded by mu
	limited        [3]int64            // what all pods are held to; only touched by run
	runtimeVersion string              // as last heard; only touched by run
	renewed        time.Time           // when the lease was; only touched by run
	imageList      []v1.ContainerImage // as last heard; only touched by run

	// said has a token when somebody else said something of this node that may
	// not be so.
	said chan struct{}
	// closing reports whether the machine shuts down.
	closing func() bool
	// tell sends an event about this node.
	tell func(kind, reason, message string)
	// ready is the Ready status this agent stands for, guarded by mu.
	ready v1.ConditionStatus
}

// nodeAnswerGap spaces out answers to what others say of this node, while a
// peer goes on to think that the host failed.
const nodeAnswerGap = 200 * time.Millisecond

// follow watches this host's own Node: other peers say there that the host
// failed, when gossip cannot reach it, and a Node may be deleted by hand. Both
// are answered at once.
func (n *node) follow(ctx context.Context) error {
	tell := func(obj any) {
		live, ok := obj.(*v1.Node)
		if known := ok && n.note(live); known && n.agrees(live) {
			return
		}
		n.poke()
	}
	lw := cache.NewListWatchFromClient(n.kube.CoreV1().RESTClient(), "nodes", v1.NamespaceAll, fields.OneTermEqualSelector(metav1.ObjectNameField, n.o.NodeName))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Node{}, Transform: withoutManagedFields,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: func(any) { tell(nil) },
		},
	})
	informer.RunWithContext(ctx)
	return nil
}

// poke has the node looked at soon.
func (n *node) poke() {
	select {
	case n.said <- struct{}{}:
	default:
	}
}

// agrees reports whether live says of the node's readiness what this agent
// does. Before the agent has said anything, everything agrees.
func (n *node) agrees(live *v1.Node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range live.Status.Conditions {
		if c.Type == v1.NodeReady {
			return n.ready == "" || c.Status == n.ready
		}
	}
	return n.ready == ""
}

func newNode(o Options, kube kubernetes.Interface, client *containerd.Client, groups *cgroup.Tree) *node {
	n := &node{o: o, kube: kube, client: client, groups: groups, said: make(chan struct{}, 1)}
	_, n.alloc = n.resources(nil)
	return n
}

func (n *node) allocatable() v1.ResourceList {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.alloc
}

// run registers the node and keeps its status true. Changes of containerd's
// reachability arrive as they happen; the rest is looked at every
// nodeRefresh.
func (n *node) run(ctx context.Context) error {
	failures := 0
	n.tell(v1.EventTypeNormal, "Starting", "Starting kubelet.")
	for ctx.Err() == nil {
		problem := n.probe(ctx)
		wait := nodeRefresh
		err := n.sync(ctx, problem)
		if err == nil {
			err = n.renewLease(ctx)
		}
		if err != nil && ctx.Err() == nil {
			n.o.Logger.Warn("node status could not be written, will retry", "error", err)
			wait = min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
			failures++
		} else {
			failures = 0
		}
		if problem != "" {
			wait = min(wait, containerdProbe)
		}
		n.waitChange(ctx, wait)
	}
	return nil
}

// probe asks containerd and says what is wrong, or "".
func (n *node) probe(ctx context.Context) string {
	if n.closing() {
		return shutdown.NodeMessage
	}
	asked, cancel := context.WithTimeout(ctx, containerdTimeout)
	defer cancel()
	if _, err := n.client.Version(asked); err != nil {
		return "container runtime is down: " + err.Error()
	}
	return n.networkProblem(ctx) // which has a limit of its own, and says so when that is reached
}

// NetworkPluginNotReady is in the message of a Node that is not ready because
// of Options.NetworkReady, and of nothing else.
const NetworkPluginNotReady = "NetworkPluginNotReady"

// networkProblem says, in the kubelet's words, what keeps pods from getting a
// network, or "".
func (n *node) networkProblem(ctx context.Context) string {
	if n.o.NetworkReady == nil {
		return ""
	}
	if err := n.o.NetworkReady(ctx); err != nil && ctx.Err() == nil {
		return "container runtime network not ready: NetworkReady=false reason:" + NetworkPluginNotReady + " message:Network plugin returns error: " + err.Error()
	}
	return ""
}

// waitChange returns when the connection to containerd changes, when somebody
// else writes of this node what is not so, or after wait.
func (n *node) waitChange(ctx context.Context, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	var answering sync.WaitGroup
	defer answering.Wait()
	defer cancel()
	answering.Go(func() {
		gap := time.NewTimer(nodeAnswerGap)
		defer gap.Stop()
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
		}
		select {
		case <-ctx.Done():
		case <-n.said:
			cancel()
		}
	})
	answering.Go(func() {
		if n.hangs(ctx) {
			cancel()
		}
	})
	conn, ok := n.client.Conn().(*grpc.ClientConn)
	if !ok {
		<-ctx.Done()
		return
	}
	if state := conn.GetState(); state == connectivity.Ready {
		conn.WaitForStateChange(ctx, state)
		return
	}
	<-ctx.Done()
}

// hangs returns true as soon as containerd does not answer, though it may still
// take connections, or pods can get no network, and false when ctx ends.
func (n *node) hangs(ctx context.Context) bool {
	tick := time.NewTicker(containerdCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		asked, cancel := context.WithTimeout(ctx, containerdHangs)
		_, err := n.client.Version(asked)
		cancel()
		if err != nil && ctx.Err() == nil || n.networkProblem(ctx) != "" {
			return true
		}
	}
}

// sync writes the node when it differs from what was written last.
func (n *node) sync(ctx context.Context, problem string) error {
	want := n.object(ctx, problem)
	n.mu.Lock()
	n.ready = v1.ConditionTrue
	if problem != "" {
		n.ready = v1.ConditionFalse
	}
	n.mu.Unlock()
	nodes := n.kube.CoreV1().Nodes()
	live, err := nodes.Get(ctx, n.o.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		want.Status.Conditions = stampConditions(nil, want.Status.Conditions)
		if live, err = nodes.Create(ctx, want, metav1.CreateOptions{}); err == nil {
			n.tellChanges(&v1.Node{}, live)
		}
	}
	if err != nil {
		return fmt.Errorf("register node %s: %w", n.o.NodeName, err)
	}
	if live, err = n.syncMeta(ctx, live, want); err != nil {
		return err
	}
	status := want.Status
	status.Capacity, status.Allocatable = n.resources(live)
	n.note(live)
	n.limitPods(status.Capacity)
	status.Conditions = stampConditions(live.Status.Conditions, status.Conditions)
	if equality.Semantic.DeepEqual(live.Status, status) {
		return nil
	}
	next := live.DeepCopy()
	next.Status = status
	if _, err := nodes.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of node %s: %w", n.o.NodeName, err)
	}
	n.tellChanges(live, next)
	return nil
}

// syncMeta adds our labels and pod range to a node that lacks them.
func (n *node) syncMeta(ctx context.Context, live, want *v1.Node) (*v1.Node, error) {
	next := live.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	for k, v := range want.Labels {
		next.Labels[k] = v
	}
	if next.Spec.PodCIDR == "" {
		next.Spec.PodCIDR, next.Spec.PodCIDRs = want.Spec.PodCIDR, want.Spec.PodCIDRs
	}
	if equality.Semantic.DeepEqual(live, next) {
		return live, nil
	}
	updated, err := n.kube.CoreV1().Nodes().Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update node %s: %w", n.o.NodeName, err)
	}
	return updated, nil
}

func (n *node) object(ctx context.Context, problem string) *v1.Node {
	capacity, allocatable := n.resources(nil)
	obj := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.o.NodeName, Labels: n.labels()},
		Status: v1.NodeStatus{
			Capacity: capacity, Allocatable: allocatable,
			Conditions:      n.conditions(problem),
			Addresses:       n.addresses(),
			DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: n.port()}},
			NodeInfo:        n.info(ctx),
			RuntimeHandlers: n.o.Runtimes.Status(ctx, n.users != nil && n.users() == nil),
			Features:        nodeFeatures(),
			Images:          n.listImages(ctx),
		},
	}
	if len(n.o.PodCIDRs) > 0 {
		obj.Spec.PodCIDR, obj.Spec.PodCIDRs = n.o.PodCIDRs[0], n.o.PodCIDRs
	}
	return obj
}

// listImages is what the status says of images; when containerd does not
// answer, what it said last.
func (n *node) listImages(ctx context.Context) []v1.ContainerImage {
	if n.images == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, n.o.ContainerdNamespace), containerdTimeout)
	defer cancel()
	if list, err := n.images.NodeImages(ctx); err == nil {
		n.imageList = list
	}
	return n.imageList
}

func (n *node) labels() map[string]string {
	out := map[string]string{
		v1.LabelHostname: n.o.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
	}
	maps.Copy(out, n.o.NodeLabels)
	return out
}

func (n *node) port() int32 {
	_, text, err := net.SplitHostPort(n.o.ListenAddr)
	if err != nil {
		return 0
	}
	port, _ := strconv.Atoi(text)
	return int32(port)
}

func (n *node) addresses() []v1.NodeAddress {
	var out []v1.NodeAddress
	for _, ip := range n.o.NodeIPs() {
		out = append(out, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	return append(out, v1.NodeAddress{Type: v1.NodeHostName, Address: n.o.NodeName})
}

func (n *node) conditions(problem string) []v1.NodeCondition {
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "agent and container runtime are ready"}
	if problem != "" {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "KubeletNotReady", problem
	}
	out := append(n.pressure(), ready)
	if n.o.Conditions != nil {
		out = append(out, n.o.Conditions()...)
	}
	return out
}

// stampConditions keeps the times of conditions that did not change.
func stampConditions(before, now []v1.NodeCondition) []v1.NodeCondition {
	stamp := metav1.Now().Rfc3339Copy()
	out := append([]v1.NodeCondition{}, now...)
	for i := range out {
		out[i].LastHeartbeatTime, out[i].LastTransitionTime = stamp, stamp
		for _, old := range before {
			if old.Type != out[i].Type || old.Status != out[i].Status || old.LastTransitionTime.IsZero() {
				continue
			}
			out[i].LastTransitionTime = old.LastTransitionTime
			if old.Reason == out[i].Reason && old.Message == out[i].Message {
				out[i].LastHeartbeatTime = old.LastHeartbeatTime
			}
		}
	}
	for _, old := range before {
		known := false
		for _, c := range now {
			known = known || c.Type == old.Type
		}
		if !known {
			out = append(out, old)
		}
	}
	return out
}

func (n *node) info(ctx context.Context) v1.NodeSystemInfo {
	info := v1.NodeSystemInfo{
		KubeletVersion: n.o.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		MachineID:     readLine("/etc/machine-id"),
		SystemUUID:    readLine("/sys/class/dmi/id/product_uuid"),
		BootID:        readLine("/proc/sys/kernel/random/boot_id"),
		KernelVersion: readLine("/proc/sys/kernel/osrelease"),
		OSImage:       osImage(),
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if v, err := n.client.Version(ctx); err == nil {
		n.runtimeVersion = "containerd://" + strings.TrimPrefix(v.Version, "v")
	}
	info.ContainerRuntimeVersion = n.runtimeVersion
	return info
}

func readLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage() string {
	for _, line := range strings.Split(readLine("/etc/os-release"), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}
