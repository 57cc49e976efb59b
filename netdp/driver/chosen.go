package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Chosen gives new pods the network of one driver. Pods that another driver has
// attached keep what they have until they end: the host was told to use another
// driver while they ran.
type Chosen struct {
	Driver          // of new pods
	Others []Driver // of earlier ones
}

// Attach implements Driver.
func (c Chosen) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	for _, other := range c.Others {
		uids, err := other.Attached(ctx)
		if err != nil {
			return Attachment{}, fmt.Errorf("find the pod's network driver: %w", err)
		}
		if slices.Contains(uids, pod.UID) {
			return other.Attach(ctx, pod)
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
