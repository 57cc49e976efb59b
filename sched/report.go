package sched

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// maxReports bounds what waits to be written. An event that finds no room is
	// lost; a condition is written at the pod's next attempt.
	maxReports = 4096
	// reportWriters is small so that events never crowd out bindings.
	reportWriters = 2
	// maxNoteBytes is the API's limit on an event's note.
	maxNoteBytes = 1024
)

// writeBinding gives the pod to the node. The uid makes the API server refuse
// it when the pod was replaced by another of its name.
func (s *Scheduler) writeBinding(ctx context.Context, pod *v1.Pod, node string) error {
	stamp, err := s.stamp(pod)
	if err != nil {
		return fmt.Errorf("bind pod %s to node %s: %w", podName(pod), node, err)
	}
	binding := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Annotations: stamp},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}
	if err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("bind pod %s to node %s: %w", podName(pod), node, err)
	}
	return nil
}

// reporter writes conditions and events in the background.
type reporter struct {
	client   kubernetes.Interface
	log      *slog.Logger
	clock    clock.PassiveClock
	instance string
	pending  chan report
}

// report is one thing to tell about a pod.
type report struct {
	pod        *v1.Pod
	at         time.Time
	kind       string // the event's type
	reason     string
	action     string
	message    string
	related    *v1.Pod // another that the event is about
	conditions bool    // whether the pod's condition says so too
	nominated  string  // the node it is promised, in its status with the condition
}

func newReporter(client kubernetes.Interface, log *slog.Logger, c clock.PassiveClock) *reporter {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return &reporter{
		client:   client,
		log:      log,
		clock:    c,
		instance: v1.DefaultSchedulerName + "-" + host,
		pending:  make(chan report, maxReports),
	}
}

func (r *reporter) scheduled(pod *v1.Pod, node string) {
	r.offer(report{
		pod: pod, kind: v1.EventTypeNormal, reason: "Scheduled", action: "Binding",
		message: fmt.Sprintf("Successfully assigned %s to %s", podName(pod), node),
	})
}

// unschedulable is false when there was no room for the report.
func (r *reporter) unschedulable(pod *v1.Pod, o outcome) bool {
	return r.offer(report{
		pod: pod, kind: v1.EventTypeWarning, reason: "FailedScheduling", action: "Scheduling",
		message: o.message, nominated: o.nominated, conditions: true,
	})
}

func (r *reporter) preempted(victim, by *v1.Pod, node string) {
	r.offer(report{
		pod: victim, related: by, kind: v1.EventTypeNormal, reason: "Preempted", action: "Preempting",
		message: fmt.Sprintf("Preempted by pod %s on node %s", by.UID, node),
	})
}

func (r *reporter) offer(rep report) bool {
	rep.at = r.clock.Now()
	select {
	case r.pending <- rep:
		return true
	default:
		return false
	}
}

func (r *reporter) run(ctx context.Context) error {
	var writers errgroup.Group
	for range reportWriters {
		writers.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case rep := <-r.pending:
					r.write(ctx, rep)
				}
			}
		})
	}
	return writers.Wait()
}

func (r *reporter) write(ctx context.Context, rep report) {
	if rep.conditions {
		if err := r.writeCondition(ctx, rep); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			r.log.Warn("the reason a pod is pending could not be written to it", "pod", podName(rep.pod), "error", err)
		}
	}
	_, err := r.client.EventsV1().Events(rep.pod.Namespace).Create(ctx, r.event(rep), metav1.CreateOptions{})
	// A pod or namespace that is going away takes no events; that is no news.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && ctx.Err() == nil {
		r.log.Warn("an event could not be written", "pod", podName(rep.pod), "reason", rep.reason, "error", err)
	}
}

// writeCondition patches the pod as it was when it found no node. When the pod
// has changed since, the patch is refused, and is repeated only if the pod still
// has no node: a late "unschedulable" must not hide a binding.
func (r *reporter) writeCondition(ctx context.Context, rep report) error {
	err := r.patchCondition(ctx, rep)
	if !apierrors.IsConflict(err) {
		return err
	}
	now, err := r.client.CoreV1().Pods(rep.pod.Namespace).Get(ctx, rep.pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if now.UID != rep.pod.UID || now.Spec.NodeName != "" {
		return nil
	}
	rep.pod = now
	return r.patchCondition(ctx, rep)
}

func (r *reporter) patchCondition(ctx context.Context, rep report) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": rep.pod.UID, "resourceVersion": rep.pod.ResourceVersion},
		"status": map[string]any{"conditions": []v1.PodCondition{{
			Type:               v1.PodScheduled,
			ObservedGeneration: rep.pod.Generation,
			Status:             v1.ConditionFalse,
			LastTransitionTime: metav1.NewTime(rep.at),
			Reason:             v1.PodReasonUnschedulable,
			Message:            rep.message,
		}}, "nominatedNodeName": orNull(rep.nominated)},
	})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Pods(rep.pod.Namespace).Patch(ctx, rep.pod.Name,
		types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// orNull has a patch take an empty value away.
func orNull(value string) any {
	if value == "" {
		return nil
	}
	return value
}

func (r *reporter) event(rep report) *eventsv1.Event {
	note := rep.message
	if len(note) > maxNoteBytes {
		note = note[:maxNoteBytes]
	}
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: rep.pod.Namespace,
			Name:      fmt.Sprintf("%s.%x", rep.pod.Name, rep.at.UnixNano()),
		},
		EventTime:           metav1.NewMicroTime(rep.at),
		ReportingController: v1.DefaultSchedulerName,
		ReportingInstance:   r.instance,
		Action:              rep.action,
		Reason:              rep.reason,
		Regarding:           podReference(rep.pod),
		Note:                note,
		Type:                rep.kind,
	}
	if rep.related != nil {
		related := podReference(rep.related)
		event.Related = &related
	}
	return event
}

func podReference(pod *v1.Pod) v1.ObjectReference {
	return v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name,
		UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
}
