package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Chosen gives pods the network of one driver, and takes away what others left.
// A daemon does not start on another driver than its running pods have, so the
// others' pods are those from before a reboot: half of what these had is on disk.
type Chosen struct {
	Driver
	Others []Driver
}

// Attach implements Driver.
func (c Chosen) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	for _, other := range c.Others {
		if err := other.Detach(ctx, pod.UID); err != nil {
			return Attachment{}, fmt.Errorf("take away the network that the pod had by another driver: %w", err)
		}
	}
	return c.Driver.Attach(ctx, pod)
}

// Detach implements Driver.
func (c Chosen) Detach(ctx context.Context, podUID string) error {
	errs := []error{c.Driver.Detach(ctx, podUID)}
	for _, other := range c.Others {
		errs = append(errs, other.Detach(ctx, podUID))
	}
	return errors.Join(errs...)
}

// Attached implements Driver.
func (c Chosen) Attached(ctx context.Context) ([]string, error) {
	uids, err := c.Driver.Attached(ctx)
	for _, other := range c.Others {
		more, otherErr := other.Attached(ctx)
		uids, err = append(uids, more...), errors.Join(err, otherErr)
	}
	slices.Sort(uids)
	return slices.Compact(uids), err
}
