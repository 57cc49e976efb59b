package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	joinObjects = 10_000
	joinCallers = 10
)

// joinFull adds a sixth host to the cell once it holds ten thousand objects,
// and asks its API for them.
func joinFull(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	if err := c.createAll(ctx, "join", joinCallers, joinObjects/joinCallers); err != nil {
		return err
	}
	if _, err := c.untilEqual(ctx); err != nil {
		return err
	}
	began := time.Now()
	n, err := c.Add(ctx)
	if err != nil {
		return err
	}
	ready := time.Since(began)
	fresh, err := c.connect(n)
	if err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		held, err := fresh.data(ctx)
		return err == nil && len(held) >= joinObjects, err
	})
	if err != nil {
		return fmt.Errorf("read the objects at the new peer: %w", err)
	}
	served := time.Since(began)
	report("join of a cell with 10,000 objects: ready", ready.Seconds(), "s", atMost(5), load())
	report("join of a cell with 10,000 objects: lists all", served.Seconds(), "s", atMost(5), load())
	c.peers = append(c.peers, fresh)
	if _, err := c.untilEqual(ctx); err != nil {
		return err
	}
	_, err = c.peers[0].client.CoreV1().Nodes().Get(ctx, fmt.Sprintf("lab-%d", n), metav1.GetOptions{})
	return err
}
