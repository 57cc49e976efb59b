package netdp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"shoal/bpf"
)

// destroyer ends UDP sockets connected to backends that left the service that they
// called, whatever numbers either has now. Requests while a round runs are served by
// one more round.
type destroyer struct {
	iter *link.Iter // nil: the kernel cannot

	requests chan struct{} // of size 1
	done     sync.WaitGroup
	cancel   context.CancelFunc
}

// startDestroyer loads the iterator by itself: it is the one program the
// datapath can do without.
func (d *Datapath) startDestroyer(spec *ebpf.CollectionSpec) error {
	iter, err := openDestroyIter(spec, d.maps)
	if err != nil {
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		err := &UnsupportedError{Feature: "bpf_sock_destroy", Since: "6.5", Err: err}
		d.log.Warn("connected UDP sockets will not notice that their backend is gone", "reason", err)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.destroyer = destroyer{iter: iter, requests: make(chan struct{}, 1), cancel: cancel}
	d.destroyer.done.Go(func() { d.runDestroyer(ctx) })
	return nil
}

func openDestroyIter(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) (*link.Iter, error) {
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, verifierError(err)
	}
	defer coll.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: coll.Programs[bpf.DatapathProgDestroyUdp]})
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", bpf.DatapathProgDestroyUdp, err)
	}
	return iter, nil
}

// destroyStaleUDP asks for a round; it does not wait.
func (d *Datapath) destroyStaleUDP() {
	if d.destroyer.iter == nil {
		return
	}
	select {
	case d.destroyer.requests <- struct{}{}:
	default: // one is waiting already
	}
}

func (d *Datapath) runDestroyer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.destroyer.requests:
		}
		if err := errors.Join(d.destroyIn(d.host), d.destroyInPods()); err != nil {
			d.log.Warn("end UDP sockets of backends that left", "error", err)
		}
	}
}

func (d *Datapath) destroyInPods() error {
	var errs []error
	for _, path := range d.podNamespaces() {
		ns, err := openNamespace(path)
		if err != nil {
			continue // the pod is gone, and its sockets with it
		}
		errs = append(errs, d.destroyIn(ns))
		ns.close()
	}
	return errors.Join(errs...)
}

// destroyIn runs the iterator in one namespace: it sees the sockets of the
// thread that opens it.
func (d *Datapath) destroyIn(ns namespace) error {
	return ns.do(func() error {
		r, err := d.destroyer.iter.Open()
		if err != nil {
			return fmt.Errorf("open socket iterator: %w", err)
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, r); err != nil {
			return fmt.Errorf("run socket iterator: %w", err)
		}
		return nil
	})
}

func (d *Datapath) podNamespaces() []string {
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	paths := make([]string, 0, len(d.pods.byUID))
	for uid := range d.pods.byUID {
		paths = append(paths, d.pods.records.netns(uid))
	}
	return paths
}

func (d *destroyer) stop() {
	if d.iter == nil {
		return
	}
	d.cancel()
	d.done.Wait()
	_ = d.iter.Close()
}
