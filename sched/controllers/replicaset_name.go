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

// nextOrdinals returns the numbers of the next count pods: those above every
// number in sight, which gives a replacement a fresh name, and is the same for
// all who see the same pods. The floor is the first number this process has not
// seen used yet.
func nextOrdinals(replicaSet string, uid types.UID, pods []*v1.Pod, floor, count int) []int {
	used := make(map[int]bool, len(pods))
	for _, pod := range pods {
		if ordinal, ok := podOrdinal(replicaSet, uid, pod.Name); ok {
			used[ordinal] = true
			floor = max(floor, ordinal+1)
		}
	}
	ordinals := make([]int, 0, count)
	for len(ordinals) < count && floor < maxOrdinal {
		ordinals = append(ordinals, floor)
		floor++
	}
	for low := 0; len(ordinals) < count && low < maxOrdinal; low++ {
		if !used[low] {
			ordinals = append(ordinals, low)
			used[low] = true
		}
	}
	return ordinals
}
