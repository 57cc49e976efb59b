package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"shoal/store"
)

const (
	// conflictsWaiting bounds what is not yet shown; what comes on top is
	// counted. A split seldom ends with more than a few.
	conflictsWaiting = 256
	// conflictEvery and conflictBurst pace the Events, so that two cells made
	// apart and merged do not drown in them. They are client-go's own numbers
	// for one source.
	conflictEvery = 5 * time.Second
	conflictBurst = 25
)

// NameConflicts shows where two objects were made independently under one name
// and only one could stay, as an Event on that one. Displaced is for the
// store's options, which are needed before there is an API.
type NameConflicts struct {
	queue   chan nameConflict
	dropped atomic.Uint64
	// NameOf, if set, names the peer behind an actor.
	NameOf func(store.Actor) string
}

type nameConflict struct {
	key        string
	kept, lost store.Record
}

// NewNameConflicts returns an empty one.
func NewNameConflicts() *NameConflicts {
	return &NameConflicts{queue: make(chan nameConflict, conflictsWaiting)}
}

// Displaced notes one conflict. It never blocks.
func (c *NameConflicts) Displaced(key string, kept, lost store.Record) {
	// Events about Events would not end, and what every peer makes for itself
	// is meant to be the same.
	rest, ok := strings.CutPrefix(key, "/registry/")
	if !ok || strings.HasPrefix(rest, "events/") || strings.HasPrefix(rest, "leases/") {
		return
	}
	lost.Value = nil // only when and who is shown
	kept.Value = bytes.Clone(kept.Value)
	select {
	case c.queue <- nameConflict{key: key, kept: kept, lost: lost}:
	default:
		c.dropped.Add(1)
	}
}

// run makes the Events until ctx ends. Not every peer sees a conflict: those that
// hear of the loser only after it has lost do not. All that see it make the same
// Event, by a name of its own, which merges to one.
func (c *NameConflicts) run(ctx context.Context, client kubernetes.Interface, log *slog.Logger) {
	limit := flowcontrol.NewTokenBucketRateLimiter(float32(1/conflictEvery.Seconds()), conflictBurst)
	for {
		var conflict nameConflict
		select {
		case <-ctx.Done():
			return
		case conflict = <-c.queue:
		}
		if n := c.dropped.Swap(0); n > 0 {
			log.Warn("more name conflicts than can be shown", "not shown", n)
		}
		if err := c.show(ctx, client, conflict, limit, log); err != nil && ctx.Err() == nil {
			log.Warn("show a name conflict", "key", conflict.key, "error", err)
		}
	}
}

func (c *NameConflicts) show(ctx context.Context, client kubernetes.Interface, conflict nameConflict, limit flowcontrol.RateLimiter, log *slog.Logger) error {
	born := conflict.lost.Born
	who := fmt.Sprintf("actor %016x", uint64(born.Actor))
	if c.NameOf != nil {
		if name := c.NameOf(born.Actor); name != "" {
			who = "host " + name
		}
	}
	at := born.Time.Time().UTC().Format(time.RFC3339)
	log.Warn("two objects were made under one name", "key", conflict.key, "kept", conflict.kept.UID, "dropped", conflict.lost.UID, "made", at, "by", who)
	object, err := involved(conflict.kept.Value)
	if err != nil {
		return err
	}
	if object.Labels["kubernetes.io/bootstrapping"] != "" || !limit.TryAccept() {
		return nil // every peer makes those alike, and the log has all
	}
	ctx, cancel := context.WithTimeout(ctx, renumberTimeout)
	defer cancel()
	h := fnv.New64a()
	_, _ = h.Write([]byte(conflict.lost.UID))
	name := fmt.Sprintf("%s.%x", object.Name, h.Sum64())
	return postNamedEvent(ctx, client, name, corev1.ObjectReference{
		APIVersion: object.APIVersion, Kind: object.Kind, Namespace: object.Namespace, Name: object.Name, UID: object.UID,
	}, "NameConflict", fmt.Sprintf("another object of this name, uid %s, was made independently on %s at %s and is gone: "+
		"this one was made earlier and stays; make the other again under another name if it is needed", conflict.lost.UID, who, at))
}

// protobufMagic begins objects stored as protobuf, in an envelope.
var protobufMagic = []byte("k8s\x00")

// involved reads what names an object in its stored form. In every kind's
// protobuf the metadata is field 1, so the kinds need not be known.
func involved(stored []byte) (*metav1.PartialObjectMetadata, error) {
	object := &metav1.PartialObjectMetadata{}
	rest, ok := bytes.CutPrefix(stored, protobufMagic)
	if !ok {
		if err := json.Unmarshal(stored, object); err != nil {
			return nil, fmt.Errorf("read stored object: %w", err)
		}
		return object, nil
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(rest); err != nil {
		return nil, fmt.Errorf("read stored object: %w", err)
	}
	if err := object.Unmarshal(envelope.Raw); err != nil {
		return nil, fmt.Errorf("read stored object's metadata: %w", err)
	}
	object.APIVersion, object.Kind = envelope.APIVersion, envelope.Kind
	return object, nil
}
