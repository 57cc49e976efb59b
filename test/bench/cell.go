package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	v1 "shoal/api/control/v1"
	"shoal/cmd/shoal/lab"
	"shoal/test/harness"
)

const (
	cellPeers = 5
	cellSpace = "bench-cell"
	// askEvery is how often peers are asked whether they are equal: a tenth of
	// a percent of the shortest bound.
	askEvery = 20 * time.Millisecond
	// callTimeout is how long a person waits for an API before it is not there.
	callTimeout = 5 * time.Second
)

// cell is a lab of five peers with one warm client for each; peer N is at N-1.
type cell struct {
	*lab.Lab
	peers []*cellPeer
}

type cellPeer struct {
	number  int
	client  *kubernetes.Clientset
	maps    typedcorev1.ConfigMapInterface
	control *http.Client
	host    string
}

// cell returns the shared lab, which is made when first asked for.
func (b *bench) cell(ctx context.Context) (*cell, error) {
	if b.lab != nil {
		return b.lab, nil
	}
	binary, err := harness.Binary("bin/shoal")
	if err != nil {
		return nil, err
	}
	// A name that stays the same, so that what a killed run left is cleared.
	dir := filepath.Join(filepath.Dir(binary), "lab-bench")
	if err := lab.Down(ctx, dir); err != nil {
		return nil, err
	}
	made, err := lab.Up(ctx, lab.Options{Dir: dir, Nodes: cellPeers, Shoal: binary})
	if err != nil {
		return nil, err
	}
	b.lab = &cell{Lab: made}
	for n := 1; n <= cellPeers; n++ {
		peer, err := b.lab.connect(n)
		if err != nil {
			return nil, err
		}
		b.lab.peers = append(b.lab.peers, peer)
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: cellSpace}}
	if _, err := b.lab.peers[0].client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	_, err = b.lab.untilEqual(ctx)
	return b.lab, err
}

func (c *cell) connect(n int) (*cellPeer, error) {
	config, err := c.Config(n)
	if err != nil {
		return nil, err
	}
	plain := rest.CopyConfig(config)
	plain.Timeout = callTimeout
	control, err := rest.HTTPClientFor(plain)
	if err != nil {
		return nil, err
	}
	// Both forms: patches of the split go as JSON.
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &cellPeer{number: n, client: client, maps: client.CoreV1().ConfigMaps(cellSpace), control: control, host: config.Host}, nil
}

// status asks a peer how it and its store are.
func (p *cellPeer) status(ctx context.Context) (*v1.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.host+v1.StatusPath, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.control.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask peer %d for its status: %s", p.number, response.Status)
	}
	status := new(v1.Status)
	return status, json.NewDecoder(response.Body).Decode(status)
}

// untilEqual waits until all peers have the same root, and returns how long
// that took.
func (c *cell) untilEqual(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	for {
		roots, err := c.roots(ctx)
		if err == nil && sameRoot(roots) {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("peers are not equal after %s: roots %s: %w", patience, strings.Join(roots, " "), errors.Join(err, ctx.Err()))
		case <-time.After(askEvery):
		}
	}
}

// roots asks all peers at once.
func (c *cell) roots(ctx context.Context) ([]string, error) {
	roots := make([]string, len(c.peers))
	group, ctx := errgroup.WithContext(ctx)
	for i, p := range c.peers {
		group.Go(func() error {
			s, err := p.status(ctx)
			if err == nil {
				roots[i] = s.Store.Root
			}
			return err
		})
	}
	return roots, group.Wait()
}

func sameRoot(roots []string) bool {
	for _, r := range roots {
		if r == "" || r != roots[0] {
			return false
		}
	}
	return true
}

// daemons returns the process of each peer's daemon.
func (c *cell) daemons(ctx context.Context) ([]lab.Status, error) {
	peers, err := c.Peers(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		if p.Pid == 0 {
			return nil, fmt.Errorf("%s does not run", p.Name)
		}
	}
	return peers, nil
}

// load is the machine's, beside which a figure of the cell has to be read: the
// peers share its cores with whatever else runs.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(data), " ")
	return "load " + first
}
