//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	componentversion "k8s.io/component-base/version"

	"shoal/agent"
	"shoal/api"
	"shoal/api/control"
	v1 "shoal/api/control/v1"
	"shoal/api/pki"
	"shoal/netdp"
)

// extra are the paths served beside the Kubernetes API.
func (p *peer) extra() map[string]http.Handler {
	o := control.Options{Cell: p.identity.Cell, Store: p.db, Host: &controlHost{p}, Encryption: cellEncryption{p}, Logger: p.log.With("part", "control")}
	if p.node != nil {
		o.Members = &cellMembers{cellNode: p.node, records: api.CellRecords(p.db)}
	}
	server := control.New(o)
	return map[string]http.Handler{v1.Prefix: server}
}

// controlHost tells package control about this host.
type controlHost struct{ *peer }

var _ control.Host = (*controlHost)(nil)

// Self implements control.Host.
func (h *controlHost) Self() v1.Peer {
	_, port, _ := net.SplitHostPort(h.listener.Addr().String())
	return v1.Peer{
		Name:       h.config.Name,
		Address:    h.config.NodeIP,
		API:        net.JoinHostPort(h.config.NodeIP, port),
		Version:    h.config.Version,
		Kubernetes: componentversion.Get().GitVersion,
	}
}

// Certificates implements control.Host.
func (h *controlHost) Certificates() ([]v1.Certificate, error) {
	found, err := h.files.Validities()
	if err != nil {
		return nil, err
	}
	list := make([]v1.Certificate, len(found))
	for i, c := range found {
		list[i] = v1.Certificate{Name: c.Name, Renews: c.Renews, Expires: c.Expires}
	}
	return list, nil
}

// Disk implements control.Host.
func (h *controlHost) Disk() (v1.Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(h.config.DataDir, &st); err != nil {
		return v1.Disk{}, fmt.Errorf("measure disk of %s: %w", h.config.DataDir, err)
	}
	return v1.Disk{Path: h.config.DataDir, FreeBytes: st.Bavail * uint64(st.Bsize), TotalBytes: st.Blocks * uint64(st.Bsize)}, nil
}

// Paths implements control.Host.
func (h *controlHost) Paths() []v1.Path {
	var paths []v1.Path
	sessions, err := h.datapath.Sessions()
	if err != nil {
		h.log.Warn("read sessions with other hosts", "error", err)
	}
	for _, r := range h.datapath.Hosts() {
		if r.PodCIDR.Addr().Is6() {
			continue // a host has one line, that of IPv4
		}
		p := v1.Path{Host: r.Host, Path: string(r.Path), MTU: r.MTU, Problem: r.Problem, LastHandshake: sessions[r.Host].Handshake}
		if p.Problem == "" && sessions[r.Host].Unheard() {
			p.Problem = fmt.Sprintf("it has not answered by WireGuard; let UDP port %d through between the hosts", netdp.DefaultWireGuardPort)
		}
		if r.Via.IsValid() {
			p.Via = r.Via.String()
		}
		paths = append(paths, p)
	}
	return paths
}

// EncryptedBy implements control.Encrypting.
func (h *controlHost) EncryptedBy() string { return h.datapath.EncryptedBy() }

// CellFiles implements control.Host.
func (h *controlHost) CellFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range pki.CellFiles() {
		content, err := os.ReadFile(filepath.Join(h.files.Dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // kept as a record instead
		}
		if err != nil {
			return nil, fmt.Errorf("read the cell's keys: %w", err)
		}
		files[filepath.Join(pkiDir, name)] = content
	}
	return files, nil
}

// RemoveNode implements control.Host.
func (h *controlHost) RemoveNode(ctx context.Context, name string) error {
	d := h.departure.Load()
	if d == nil {
		return errStarting
	}
	return d.removeNode(ctx, name)
}

// Depart implements control.Host.
func (h *controlHost) Depart(ctx context.Context, keepPods bool) error {
	d := h.departure.Load()
	if d == nil {
		return errStarting
	}
	h.serving.Store(false)
	if err := d.depart(ctx, h.config.Name, keepPods); err != nil {
		return err
	}
	if keepPods {
		return nil
	}
	if err := h.datapath.Remove(); err != nil {
		return fmt.Errorf("remove datapath: %w", err)
	}
	return nil
}

// quitDelay lets the answer to the one who asked leave before the API ends.
const quitDelay = time.Second

// Quit implements control.Host.
func (h *controlHost) Quit() { time.AfterFunc(quitDelay, h.quit) }

// errStarting is the answer to who comes too early.
var errStarting = errors.New("the daemon is still starting; try again")

// departure is the agent's life, which ends before the daemon's when the host
// leaves the cell: an agent registers its node again as long as it runs.
type departure struct {
	agent *agent.Agent
	nodes corev1.NodeInterface
	stop  context.CancelFunc
	ended chan struct{}
}

// startAgent runs the agent in group until ctx ends or the host departs.
func (p *peer) startAgent(ctx context.Context, group *errgroup.Group, nodes corev1.NodeInterface) {
	d := &departure{agent: p.agent, nodes: nodes, ended: make(chan struct{})}
	ctx, d.stop = context.WithCancel(ctx)
	group.Go(func() error {
		defer close(d.ended)
		return named("agent", p.agent.Run(ctx))
	})
	p.departure.Store(d)
}

func (d *departure) depart(ctx context.Context, node string, keepPods bool) error {
	if !keepPods {
		if err := d.agent.StopPods(ctx); err != nil {
			return fmt.Errorf("stop pods: %w", err)
		}
	}
	d.stop()
	select {
	case <-d.ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent to end: %w", ctx.Err())
	}
	return d.removeNode(ctx, node)
}

func (d *departure) removeNode(ctx context.Context, name string) error {
	err := d.nodes.Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
