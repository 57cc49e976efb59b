// Package shutdown ends this host's pods in order when the machine shuts down
// (KEP-2000, and KEP-2712 for the order by priority), as the kubelet does.
//
// Always true: without D-Bus and logind nothing runs here and nothing is
// delayed; the machine is held up for no longer than the periods say; a
// shutdown that is cancelled leaves a host that takes pods again.
//
// The agent runs it. It ends pods through what the agent gives it and writes
// nothing to the API itself.
package shutdown

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/scheduling"
)

// Period is how long pods of a priority, and of those above up to the next
// period's, get.
type Period struct {
	Priority int32
	Time     time.Duration
}

// Periods makes the two periods of ordinary and critical pods, of which
// critical is a part of total.
func Periods(total, critical time.Duration) []Period {
	if total <= 0 {
		return nil
	}
	return []Period{
		{scheduling.DefaultPriorityWhenNoDefaultClassExists, total - min(critical, total)},
		{scheduling.SystemCriticalPriority, min(critical, total)},
	}
}

// maxPeriods bounds what a person may give.
const maxPeriods = 32

// ParsePeriods reads "PRIORITY=DURATION,…".
func ParsePeriods(text string) ([]Period, error) {
	if text == "" {
		return nil, nil
	}
	var out []Period
	for part := range strings.SplitSeq(text, ",") {
		priority, length, ok := strings.Cut(part, "=")
		p, err := strconv.ParseInt(strings.TrimSpace(priority), 10, 32)
		d, err2 := time.ParseDuration(strings.TrimSpace(length))
		if !ok || err != nil || err2 != nil || d < 0 {
			return nil, fmt.Errorf("%q is no period: want PRIORITY=DURATION, as in 1000=20s", part)
		}
		if slices.ContainsFunc(out, func(o Period) bool { return o.Priority == int32(p) }) {
			return nil, fmt.Errorf("priority %d has two periods", p)
		}
		if out = append(out, Period{int32(p), d}); len(out) > maxPeriods {
			return nil, fmt.Errorf("more than %d periods", maxPeriods)
		}
	}
	return out, nil
}

func total(periods []Period) time.Duration {
	var sum time.Duration
	for _, p := range periods {
		sum += p.Time
	}
	return sum
}

// fit shortens periods, each by the same part, to what there is.
func fit(periods []Period, most time.Duration) []Period {
	sum := total(periods)
	if sum <= most || sum == 0 {
		return periods
	}
	out := slices.Clone(periods)
	for i := range out {
		out[i].Time = time.Duration(float64(out[i].Time) * float64(most) / float64(sum))
	}
	return out
}

// group is the pods that end together.
type group struct {
	Period
	pods []*v1.Pod
}

// groups sorts pods into periods, the lowest priority first. Pods below the
// lowest period are in it.
func groups(periods []Period, pods []*v1.Pod) []group {
	out := make([]group, len(periods))
	for i, p := range periods {
		out[i].Period = p
	}
	slices.SortFunc(out, func(a, b group) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, pod := range pods {
		var priority int32
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		at := 0
		for i := range out {
			if out[i].Priority <= priority {
				at = i
			}
		}
		out[at].pods = append(out[at].pods, pod)
	}
	return out
}
