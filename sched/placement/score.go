package placement

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Every score runs from 0 to fullScore before its weight; the weights are the
// upstream scheduler's defaults.
const (
	fullScore = 1000

	weightLeastAllocated = 1
	weightBalanced       = 1
	weightPreference     = 2
	weightSpread         = 2
	weightTolerance      = 3
)

// bounds are the largest raw scores among the candidates, which the others are
// measured against.
type bounds struct{ preference, intolerant, siblings int64 }

// best returns the candidate with the highest score, the first in search order
// among equals.
func (s *Snapshot) best(c *class, pod *v1.Pod, candidates []int) int {
	if len(candidates) == 1 {
		return candidates[0]
	}
	var owner types.UID
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		owner = ref.UID
	}
	top := s.boundsOf(c, owner, candidates)
	best, bestScore := candidates[0], int64(-1)
	for _, slot := range candidates {
		if score := s.score(c, owner, slot, top); score > bestScore {
			best, bestScore = slot, score
		}
	}
	return best
}

func (s *Snapshot) boundsOf(c *class, owner types.UID, candidates []int) bounds {
	var top bounds
	for _, slot := range candidates {
		v := s.verdictOf(c, slot)
		top.preference = max(top.preference, int64(v.preference))
		top.intolerant = max(top.intolerant, int64(v.intolerant))
		top.siblings = max(top.siblings, s.siblings(owner, slot))
	}
	return top
}

func (s *Snapshot) score(c *class, owner types.UID, slot int, top bounds) int64 {
	r, v := &s.rows[slot], s.verdictOf(c, slot)
	cpu := share(r.scoredMilliCPU+c.scoreMilliCPU, r.allocatable.milliCPU)
	memory := share(r.scoredMemoryBytes+c.scoreMemoryBytes, r.allocatable.memoryBytes)
	total := weightLeastAllocated*(fullScore-(cpu+memory)/2) + weightBalanced*(fullScore-abs(cpu-memory)/2)
	if top.preference > 0 {
		total += weightPreference * fullScore * int64(v.preference) / top.preference
	}
	total += weightTolerance * remainder(int64(v.intolerant), top.intolerant)
	total += weightSpread * remainder(s.siblings(owner, slot), top.siblings)
	return total
}

func (s *Snapshot) siblings(owner types.UID, slot int) int64 {
	if owner == "" {
		return 0
	}
	return int64(s.nodes[slot].owners[owner])
}

// share is used/available in thousandths, at most all of it.
func share(used, available int64) int64 {
	if available <= 0 || used >= available {
		return fullScore
	}
	// A node's memory in bytes times a thousand stays far below 2^63.
	return used * fullScore / available
}

// remainder rates the least of something best.
func remainder(n, top int64) int64 {
	if top == 0 {
		return fullScore
	}
	return fullScore * (top - n) / top
}

func abs(n int64) int64 { return max(n, -n) }
