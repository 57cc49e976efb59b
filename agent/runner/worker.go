package runner

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/cgroup"
)

// event is something a worker is told by one of its own goroutines.
type event func(w *worker)

// worker owns one pod.
type worker struct {
	r     *Runner
	uid   types.UID
	log   *slog.Logger
	wake  chan struct{}
	ended chan struct{}
	// giveUp ends waits for a place to start, once the pod shall stop.
	startable context.Context
	giveUp    context.CancelFunc

	mu      sync.Mutex
	pod     *v1.Pod  // the wish; guarded by mu
	removed bool     // the wish is that it be gone; guarded by mu
	quiet   bool     // it stops with its object staying; guarded by mu
	inbox   []event  // guarded by mu
	made    []string // see remember; guarded by mu

	view atomic.Pointer[view] // for other goroutines

	// The rest belongs to the worker's goroutine.
	slots     []*slot
	retired   []*instance // attempts whose tasks keep the shim until the next start
	followed  *v1.Pod     // whose specification the slots have
	box       sandbox
	admitted  bool
	rejected  *rejection
	expired   bool // it was active for longer than it may be
	startTime time.Time
	sent      *v1.PodStatus
	stop      *stopping
	refresh   refresh
	resize    resizing
	group     cgroup.Limits           // what the pod's group was last set to
	imageVols map[string]*imageVolume // by name; nil without any
	// restartingAll says that all containers are being ended to begin anew.
	restartingAll bool
	released      bool        // a finished pod whose resources are gone
	freed         atomic.Bool // released or about to be gone, for other goroutines
	evicted       *eviction   // nil but while the host takes back what it uses
	over          bool
	left          error // why something of the pod stays; for others once ended is closed
	jobs          sync.WaitGroup
}

// rejection is why a pod failed without ever having run here.
type rejection struct{ reason, message string }

func newWorker(r *Runner, pod *v1.Pod, before []found) *worker {
	w := &worker{
		r: r, uid: pod.UID, pod: pod,
		log:   r.Logger.With("pod", pod.Namespace+"/"+pod.Name, "uid", string(pod.UID)),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}
	w.follow(pod)
	w.startable, w.giveUp = context.WithCancel(context.Background())
	w.adopt(pod, before)
	if pod.DeletionTimestamp != nil {
		w.giveUp()
	}
	return w
}

func (w *worker) set(pod *v1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.mu.Unlock()
	if pod.DeletionTimestamp != nil {
		w.giveUp()
	}
	w.poke()
}

// remove stops the pod. With quiet its object stays, and nothing is reported.
func (w *worker) remove(quiet bool) {
	w.mu.Lock()
	w.removed = true
	w.quiet = w.quiet || quiet
	w.mu.Unlock()
	w.giveUp()
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tell hands an event to the worker. The inbox is bounded by the number of
// goroutines the worker has, each of which tells one thing at a time.
func (w *worker) tell(e event) {
	w.mu.Lock()
	w.inbox = append(w.inbox, e)
	w.mu.Unlock()
	w.poke()
}

func (w *worker) wish() (*v1.Pod, bool, []event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	inbox := w.inbox
	w.inbox = nil
	return w.pod, w.removed, inbox
}

func (w *worker) run(ctx context.Context) {
	defer close(w.ended)
	defer w.r.ended(w)
	defer w.giveUp()
	ctx, cancel := context.WithCancel(ctx)
	defer w.jobs.Wait()
	defer w.closeFDs()
	defer cancel()
	w.watchAdopted()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := w.step(ctx)
		if w.over || ctx.Err() != nil {
			return
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

func (w *worker) closeFDs() {
	for _, s := range w.slots {
		if s.current != nil {
			s.current.closeFD()
			s.current.endProbes()
		}
	}
}

// step brings the pod nearer to its wish and says when to look again if
// nothing happens before; zero means no need.
func (w *worker) step(ctx context.Context) time.Time {
	pod, removed, inbox := w.wish()
	pod = w.allocate(pod)
	w.follow(pod)
	for _, e := range inbox {
		e(w)
	}
	if w.startTime.IsZero() {
		w.startTime = now()
		if t := pod.Status.StartTime; t != nil {
			w.startTime = t.Time
		}
	}
	var next time.Time
	switch {
	case w.released:
		if removed || pod.DeletionTimestamp != nil {
			w.finish(pod)
		}
		return time.Time{}
	case removed || pod.DeletionTimestamp != nil:
		next = w.stopStep(ctx, pod)
	case w.evicted != nil:
		next = w.evictStep(ctx, pod)
	case w.rejected != nil || w.finished(pod) || w.expire(pod):
		next = w.releaseStep(ctx, pod)
	case !w.admit(pod):
		next = w.releaseStep(ctx, pod)
	default:
		next = w.runStep(ctx, pod)
		next = earlier(next, w.activeUntil(pod))
		if w.box.ready {
			next = earlier(next, w.refreshStep(ctx, pod))
			next = earlier(next, w.resizeStep(ctx, pod))
		}
	}
	w.publish(pod)
	return next
}

// runStep keeps the pod running.
func (w *worker) runStep(ctx context.Context, pod *v1.Pod) time.Time {
	if w.restartingAll {
		if next, done := w.restartAllStep(pod); !done {
			return next
		}
		w.publish(pod)
	}
	return earlier(w.startStep(ctx, pod), w.endings(pod, atOnce))
}

// admit checks once, before anything is made, that the pod can run here.
func (w *worker) admit(pod *v1.Pod) bool {
	if w.admitted {
		return true
	}
	if reason, message := w.r.Admit(pod); reason != "" {
		w.rejected = &rejection{reason, message}
		w.r.Sink.Event(pod, v1.EventTypeWarning, reason, message)
		return false
	}
	w.admitted = true
	return true
}

func (w *worker) isQuiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.quiet
}

// publish sends the status if it changed.
func (w *worker) publish(pod *v1.Pod) {
	if w.over {
		return
	}
	w.show()
	status := w.status(pod)
	if w.isQuiet() {
		return
	}
	if w.sent != nil && equality.Semantic.DeepEqual(*w.sent, status) {
		return
	}
	w.sent = &status
	w.r.Sink.Status(pod, status)
}
