// Package metrics serves metrics.k8s.io/v1beta1, what `kubectl top` and
// autoscalers read, on every peer without an add-on: a request is answered by
// asking the agents of all hosts at once.
//
// Always true: nothing is read while nobody asks; a host that does not answer
// is missing from the answer and delays it by no more than askTimeout; what is
// remembered of a host is freshFor old at most.
//
// The API server installs it. If a user registers a server of their own for
// this group version (an APIService with a service), requests go there, as
// with any group that is aggregated.
package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	kubelet "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	// freshFor is how long an agent's answer is given again. It is less than
	// the 15 s in which the usual autoscaler comes by.
	freshFor = 10 * time.Second
	// askTimeout bounds an agent's answer; the first in a while takes a second.
	askTimeout = 4 * time.Second
	// askAtOnce bounds requests in flight: a cell has up to 1,024 hosts.
	askAtOnce = 128
	// maxAnswer bounds what is read of one agent: 250 pods with many labels
	// are some hundred kilobytes.
	maxAnswer = 8 << 20
	// agentPath is where an agent tells it (agent.UsagePath).
	agentPath = "/shoal/v1/usage"
)

// Options are what the group needs; all are required.
type Options struct {
	Nodes  corelisters.NodeLister
	Pods   corelisters.PodLister
	Agents kubelet.ConnectionInfoGetter
	Logger *slog.Logger
}

// usage is an agent's answer (stats.Usage).
type usage struct {
	Node v1beta1.NodeMetrics  `json:"node"`
	Pods []v1beta1.PodMetrics `json:"pods"`
}

// agents asks the agents and remembers their answers for a moment.
type agents struct {
	Options
	slots chan struct{}

	mu    sync.Mutex
	known map[string]*answer // by node; guarded by mu
}

// answer is what one agent said last. Its lock is held while it is asked, so
// that it is asked once, whoever waits.
type answer struct {
	lock  chan struct{} // of one place
	usage *usage
	at    time.Time
}

func newAgents(o Options) *agents {
	return &agents{Options: o, slots: make(chan struct{}, askAtOnce), known: map[string]*answer{}}
}

// all asks the agents of these nodes. Those that do not answer are left out.
func (a *agents) all(ctx context.Context, nodes []*v1.Node) []*usage {
	a.keep()
	out := make([]*usage, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		if !ready(node) {
			continue
		}
		select {
		case a.slots <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return nil
		}
		wg.Go(func() {
			defer func() { <-a.slots }()
			u, err := a.one(ctx, node.Name)
			if err != nil {
				a.Logger.Debug("host does not tell what it uses", "node", node.Name, "error", err)
				return
			}
			out[i] = u
		})
	}
	wg.Wait()
	found := out[:0]
	for _, u := range out {
		if u != nil {
			found = append(found, u)
		}
	}
	return found
}

// ready reports whether the node's agent is worth asking: peers note within
// seconds that a host failed.
func ready(node *v1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status != v1.ConditionUnknown
		}
	}
	return false
}

func (a *agents) one(ctx context.Context, node string) (*usage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a.mu.Lock()
	e := a.known[node]
	if e == nil {
		e = &answer{lock: make(chan struct{}, 1)}
		a.known[node] = e
	}
	a.mu.Unlock()
	select {
	case e.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-e.lock }()
	if e.usage != nil && time.Since(e.at) < freshFor {
		return e.usage, nil
	}
	u, err := a.ask(ctx, node)
	if err != nil {
		return nil, err
	}
	e.usage, e.at = u, time.Now()
	return u, nil
}

func (a *agents) ask(ctx context.Context, node string) (*usage, error) {
	to, err := a.Agents.GetConnectionInfo(ctx, types.NodeName(node))
	if err != nil {
		return nil, err
	}
	target := url.URL{Scheme: to.Scheme, Host: net.JoinHostPort(to.Hostname, to.Port), Path: agentPath}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := to.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("agent of %s answers %s", node, resp.Status)
	}
	u := &usage{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(u); err != nil {
		return nil, fmt.Errorf("read answer of the agent of %s: %w", node, err)
	}
	return u, nil
}

// keep forgets nodes that are no more.
func (a *agents) keep() {
	all, err := a.Nodes.List(labels.Everything())
	if err != nil {
		return
	}
	names := make(map[string]bool, len(all))
	for _, n := range all {
		names[n.Name] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.known {
		if !names[name] {
			delete(a.known, name)
		}
	}
}
