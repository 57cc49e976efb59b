package sched

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/sched/internal/testpeer"
	"shoal/sched/slices"
)

// TestRecordsOfSlices: the only peer takes every slice by a record of its own, and
// takes one anew whose record somebody deletes, in a higher epoch.
func TestRecordsOfSlices(t *testing.T) {
	records, err := slices.NewLeases(peer.Client)
	if err != nil {
		t.Fatal(err)
	}
	leader := &slices.Leader{
		Self: "host1", Alive: func() []string { return []string{"host1"} }, Alone: func() bool { return true },
		Records: records, Logger: peer.Log,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- records.Run(ctx) }()
	go func() { done <- leader.Run(ctx) }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := leader.Led().Len(); n != 0 {
			t.Errorf("%d slices are led when all has ended", n)
		}
	}()
	testpeer.Eventually(t, func() string {
		if leader.Led() != slices.All() {
			return fmt.Sprintf("%d slices are led", leader.Led().Len())
		}
		return ""
	})
	const slice = 17
	leases := peer.Client.CoordinationV1().Leases(slices.Namespace)
	record := func() slices.Record {
		lease, err := leases.Get(t.Context(), slices.Name(slice), metav1.GetOptions{})
		if err != nil {
			return slices.Record{}
		}
		r, _ := slices.RecordOf(lease)
		return r
	}
	before := record()
	if before.Leader != "host1" || before.Epoch < 1 || before.Since.IsZero() {
		t.Fatalf("the record is %+v", before)
	}
	if err := leases.Delete(t.Context(), slices.Name(slice), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		stamp, leads := leader.Stamp(slice)
		if r := record(); r.Leader != "host1" || r.Epoch <= before.Epoch || !leads || stamp.Epoch != r.Epoch {
			return fmt.Sprintf("the record is %+v, and work carries %s", r, stamp)
		}
		return ""
	})
}
