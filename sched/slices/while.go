package slices

import (
	"context"
	"errors"
	"log/slog"
)

// While runs some work on this peer whenever it leads any of the wanted slices,
// until the context ends. The work ends with its context; an error of it ends
// While.
func (l *Leader) While(ctx context.Context, wanted Set, log *slog.Logger, run func(context.Context) error) error {
	changed, stop := l.Watch()
	defer stop()
	var current *term
	defer func() { _ = current.end() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-current.over():
			return err
		case <-changed:
		}
		leads := l.Led().Minus(All().Minus(wanted)).Len() > 0
		switch {
		case leads && current == nil:
			log.Info("this peer leads")
			current = begin(ctx, run)
		case !leads && current != nil:
			log.Info("this peer no longer leads")
			err := current.end()
			current = nil
			if err != nil {
				return err
			}
		}
	}
}

// term is one time of leading; nil is none.
type term struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    chan error
}

func begin(ctx context.Context, run func(context.Context) error) *term {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{cancel: cancel, ended: make(chan struct{}), err: make(chan error, 1)}
	go func() {
		defer close(t.ended)
		t.err <- run(ctx)
	}()
	return t
}

// over has the work's error when it ends by itself.
func (t *term) over() <-chan error {
	if t == nil {
		return nil
	}
	return t.err
}

// end ends the work and waits for it.
func (t *term) end() error {
	if t == nil {
		return nil
	}
	t.cancel()
	<-t.ended
	select {
	case err := <-t.err:
		if !errors.Is(err, context.Canceled) {
			return err
		}
	default:
	}
	return nil
}
