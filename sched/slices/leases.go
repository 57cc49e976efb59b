package slices

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

const (
	// Namespace is where the records are.
	Namespace = metav1.NamespaceSystem
	// Label is on every record; its value is the slice's number.
	Label = "shoal.dev/slice"
)

// Leases keeps the records as Leases, so that any client sees them: the holder
// is the leader and leaseTransitions the epoch. They are written when a leader
// changes and never renewed. It is safe for concurrent use. Make it with
// NewLeases.
type Leases struct {
	client   kubernetes.Interface
	informer cache.SharedIndexInformer
	changed  chan struct{}

	mu     sync.Mutex
	last   [Count]Record // guarded by mu; as last seen
	newest [Count]int64  // guarded by mu; the highest epoch ever seen
}

// NewLeases returns records read and written through client. Nothing is known
// until Run.
func NewLeases(client kubernetes.Interface) (*Leases, error) {
	const noResync = 0
	factory := informers.NewSharedInformerFactoryWithOptions(client, noResync, informers.WithNamespace(Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = Label }))
	l := &Leases{client: client, informer: factory.Coordination().V1().Leases().Informer(), changed: make(chan struct{}, 1)}
	_, err := l.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: l.see, UpdateFunc: func(_, now any) { l.see(now) }, DeleteFunc: l.lose,
	})
	if err != nil {
		return nil, fmt.Errorf("watch the records of slices: %w", err)
	}
	return l, nil
}

// Run follows the records until the context ends.
func (l *Leases) Run(ctx context.Context) error {
	l.informer.RunWithContext(ctx)
	return nil
}

// Changed has an element whenever a record may have changed.
func (l *Leases) Changed() <-chan struct{} { return l.changed }

// Last is a slice's record as this peer has it.
func (l *Leases) Last(slice int) Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[slice]
}

// Newest is the highest epoch of a slice that this process has seen, also if the
// record says less by now.
func (l *Leases) Newest(slice int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest[slice]
}

func (l *Leases) see(object any) {
	lease, ok := object.(*coordination.Lease)
	if !ok {
		return
	}
	if r, ok := RecordOf(lease); ok {
		l.note(r)
		l.tell()
	}
}

// lose forgets a record that somebody deleted, so that its leader takes the slice
// again; its epoch stays known.
func (l *Leases) lose(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	lease, ok := object.(*coordination.Lease)
	if !ok {
		return
	}
	if r, ok := RecordOf(lease); ok {
		l.note(r)
		l.note(Record{Slice: r.Slice})
		l.tell()
	}
}

func (l *Leases) note(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[r.Slice] = r
	l.newest[r.Slice] = max(l.newest[r.Slice], r.Epoch)
}

func (l *Leases) tell() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// RecordOf reads a record; false if the lease is none.
func RecordOf(lease *coordination.Lease) (Record, bool) {
	slice, err := strconv.Atoi(lease.Labels[Label])
	if err != nil || slice < 0 || slice >= Count || lease.Name != Name(slice) {
		return Record{}, false
	}
	r := Record{Slice: slice}
	if lease.Spec.HolderIdentity != nil {
		r.Leader = *lease.Spec.HolderIdentity
	}
	if lease.Spec.LeaseTransitions != nil {
		r.Epoch = int64(*lease.Spec.LeaseTransitions)
	}
	if lease.Spec.AcquireTime != nil {
		r.Since = lease.Spec.AcquireTime.Time
	}
	return r, true
}

// Take implements Records.
func (l *Leases) Take(ctx context.Context, slice int, leader string) (taken Record, err error) {
	leases := l.client.CoordinationV1().Leases(Namespace)
	write := func() error {
		lease, err := leases.Get(ctx, Name(slice), metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if err != nil && !missing {
			return err
		}
		if missing {
			lease = &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: Name(slice), Namespace: Namespace}}
		}
		lease.Labels = map[string]string{Label: strconv.Itoa(slice)}
		was, _ := RecordOf(lease)
		newest := max(l.Newest(slice), was.Epoch)
		if was.Leader == leader && was.Epoch == newest && !missing {
			taken = was
			return nil
		}
		next, now := int32(newest+1), metav1.NowMicro()
		lease.Spec = coordination.LeaseSpec{HolderIdentity: &leader, LeaseTransitions: &next, AcquireTime: &now}
		if missing {
			lease, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		} else {
			lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		if err == nil {
			taken, _ = RecordOf(lease)
		}
		return err
	}
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	if err := retry.OnError(retry.DefaultBackoff, again, write); err != nil {
		return Record{}, fmt.Errorf("take %s: %w", Name(slice), err)
	}
	l.note(taken)
	return taken, nil
}
