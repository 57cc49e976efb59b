package reconcile

import "errors"

// ErrCorrupt is wrapped by every decoding failure.
var ErrCorrupt = errors.New("corrupt reconciliation message")
