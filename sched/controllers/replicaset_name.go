package controllers

import (
	"hash/fnv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The pods of a ReplicaSet are numbered from zero, and the last five characters
// of a pod's name are its number: not in plain digits, but sent through a
// one-to-one mapping of all five-character suffixes that the ReplicaSet's uid
// shifts. So names look as random as users know them, two leaders with the same
// view make the same names, and the number can be read back from the name.
const (
	// suffixAlphabet is the one the API server takes for generated names: no
	// vowels and no characters that look alike.
	suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength   = 5
	// suffixSpace is 27^5, all suffixes there are.
	suffixSpace = 27 * 27 * 27 * 27 * 27
	// suffixStride and suffixInverse undo each other modulo suffixSpace.
	suffixStride  = 9227465
	suffixInverse = 11452076

	// maxOrdinal bounds the numbers in use. What decodes to more is a name
	// somebody else gave, as an adopted pod's is. A ReplicaSet that has used up
	// a million numbers starts again with the lowest that is free.
	maxOrdinal = 1 << 20

	// maxNameBase keeps a pod's name within the 63 bytes of a host name, as the
	// API server does for generated names.
	maxNameBase = 63 - suffixLength
)

// podBase is the part of the names all pods of a ReplicaSet share.
func podBase(replicaSet string) string {
	base := replicaSet + "-"
	if len(base) > maxNameBase {
		base = base[:maxNameBase]
	}
	return base
}

// podName is the name of a ReplicaSet's pod with the given number.
func podName(replicaSet string, uid types.UID, ordinal int) string {
	value := (uint64(ordinal)*suffixStride + suffixShift(uid)) % suffixSpace
	var suffix [suffixLength]byte
	for i := range suffix {
		suffix[i] = suffixAlphabet[value%uint64(len(suffixAlphabet))]
		value /= uint64(len(suffixAlphabet))
	}
	return podBase(replicaSet) + string(suffix[:])
}

// podOrdinal reads the number back. It is false for a name this mapping did not
// give.
func podOrdinal(replicaSet string, uid types.UID, pod string) (int, bool) {
	suffix, ok := strings.CutPrefix(pod, podBase(replicaSet))
	if !ok || len(suffix) != suffixLength {
		return 0, false
	}
	var value uint64
	for i := suffixLength - 1; i >= 0; i-- {
		digit := strings.IndexByte(suffixAlphabet, suffix[i])
		if digit < 0 {
			return 0, false
		}
		value = value*uint64(len(suffixAlphabet)) + uint64(digit)
	}
	value = (value + suffixSpace - suffixShift(uid)) % suffixSpace * suffixInverse % suffixSpace
	return int(value), value < maxOrdinal
}

func suffixShift(uid types.UID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(uid))
	return h.Sum64() % suffixSpace
}

// numbers is what a process remembers about the numbers of one ReplicaSet's
// pods: all below base count as used, and so do those in seen.
//
// A base and a set, not a maximum, because the pods of one burst are made in
// parallel and become visible out of order: a number that is missing among
// those seen so far is one that is about to appear, and asking for it again is
// harmless, while asking for one more would make a pod too many.
type numbers struct {
	base int
	seen map[int]bool
}

// startAbove begins a memory at the first look: whatever lies below the highest
// number in sight has been used before, also if its pod is gone.
func startAbove(replicaSet string, uid types.UID, pods []*v1.Pod) numbers {
	n := numbers{seen: map[int]bool{}}
	for _, pod := range pods {
		if ordinal, ok := podOrdinal(replicaSet, uid, pod.Name); ok {
			n.base = max(n.base, ordinal+1)
		}
	}
	return n
}

func (n *numbers) use(ordinal int) {
	if ordinal < n.base {
		return
	}
	n.seen[ordinal] = true
	for n.seen[n.base] {
		delete(n.seen, n.base)
		n.base++
	}
}

// nextOrdinals returns the numbers of the next count pods: the lowest that were
// never used as far as anybody here knows, so that a replacement has a fresh
// name, and all who saw the same pods come and go choose alike.
func nextOrdinals(replicaSet string, uid types.UID, pods []*v1.Pod, known numbers, count int) []int {
	inSight := make(map[int]bool, len(pods))
	for _, pod := range pods {
		if ordinal, ok := podOrdinal(replicaSet, uid, pod.Name); ok {
			inSight[ordinal] = true
		}
	}
	ordinals := make([]int, 0, count)
	for n := known.base; len(ordinals) < count && n < maxOrdinal; n++ {
		if !inSight[n] && !known.seen[n] {
			ordinals = append(ordinals, n)
		}
	}
	for n := 0; len(ordinals) < count && n < known.base; n++ { // all used up: start again
		if !inSight[n] {
			ordinals = append(ordinals, n)
		}
	}
	return ordinals
}
