package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

const (
	// leaseLife is how long what a pull or an import that broke off left is
	// kept, so that the next attempt goes on from there. It is longer than
	// any pull may take.
	leaseLife = time.Hour
	labelFor  = "shoal.image/for" // what a lease is held for
	// cleanTimeout bounds cleaning up after a failure.
	cleanTimeout = 30 * time.Second
)

// held keeps containerd from collecting what belongs to no image yet.
type held struct {
	s    *Store
	ctx  context.Context // with the lease
	name string
	id   string
}

// lease begins one for work on name.
func (s *Store) lease(ctx context.Context, name string) (*held, error) {
	l, err := s.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseLife),
		leases.WithLabels(map[string]string{labelFor: name}))
	if err != nil {
		return nil, fmt.Errorf("hold the content of image %s: %w", name, err)
	}
	return &held{s: s, ctx: leases.WithLease(ctx, l.ID), name: name, id: l.ID}, nil
}

// drop ends the lease alone; what it held and no image has goes.
func (h *held) drop() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), cleanTimeout)
	defer cancel()
	if err := h.s.client.LeasesService().Delete(ctx, leases.Lease{ID: h.id}, leases.SynchronousDelete); err != nil {
		h.s.o.Logger.Warn("a lease could not be given back; containerd ends it after "+leaseLife.String(), "error", err)
	}
}

// done ends the lease, and those of earlier attempts at the same name.
func (h *held) done() { h.end() }

// failed keeps what has come for the next attempt, unless the disk is full.
func (h *held) failed(f *fetch, err error) {
	if !isNoSpace(err) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), cleanTimeout)
	defer cancel()
	for _, ref := range f.begun() {
		_ = h.s.client.ContentStore().Abort(ctx, ref) // most are whole by now
	}
	h.end(leases.SynchronousDelete)
}

func (h *held) end(opts ...leases.DeleteOpt) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), cleanTimeout)
	defer cancel()
	service := h.s.client.LeasesService()
	list, err := service.List(ctx, fmt.Sprintf("labels.%q==%q", labelFor, h.name))
	if err != nil {
		list = []leases.Lease{{ID: h.id}}
	}
	for _, l := range list {
		if err := service.Delete(ctx, l, opts...); err != nil {
			h.s.o.Logger.Warn("a lease could not be given back; containerd ends it after "+leaseLife.String(), "image", h.name, "error", err)
		}
	}
}
