package cgroup

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// makeQOS makes the class's group once. The lowest class has the lowest weight;
// of huge pages the kubelet limits pods only.
func (t *Tree) makeQOS(qos v1.PodQOSClass) error {
	t.qosOnce.Lock()
	defer t.qosOnce.Unlock()
	if t.qosMade[qos] {
		return nil
	}
	limits := Limits{}
	switch qos {
	case v1.PodQOSBestEffort:
		limits.CPUShares = MinShares
	case v1.PodQOSBurstable:
		limits.CPUShares = t.burstableShares()
	}
	if qos != v1.PodQOSGuaranteed && t.LimitsHuge() {
		limits.HugePages = map[int64]int64{}
		for size := range HugeSizes() {
			limits.HugePages[size] = hugeUnlimited
		}
	}
	if err := t.set(t.qosPath(qos), limits); err != nil {
		return fmt.Errorf("create control group %s: %w", t.qosPath(qos), err)
	}
	t.qosMade[qos] = true
	return nil
}

// weigh keeps the weight of the burstable class what its pods ask for
// together, as the kubelet does: without, all of them would share what one pod
// of the class above gets. shares 0 is one that is no more.
func (t *Tree) weigh(podUID string, shares uint64) error {
	t.qosOnce.Lock()
	defer t.qosOnce.Unlock()
	before := t.burstableShares()
	if shares <= MinShares { // it asks for nothing
		delete(t.burstable, podUID)
	} else {
		t.burstable[podUID] = shares
	}
	now := t.burstableShares()
	if now == before || !t.qosMade[v1.PodQOSBurstable] {
		return nil
	}
	if err := t.write(t.qosPath(v1.PodQOSBurstable), Limits{CPUShares: now}); err != nil {
		return fmt.Errorf("weigh burstable pods: %w", err)
	}
	return nil
}

// burstableShares is called with qosOnce held.
func (t *Tree) burstableShares() uint64 {
	var sum uint64
	for _, shares := range t.burstable {
		sum += shares
	}
	return min(max(sum, MinShares), MaxShares)
}

// SetRoot holds everything shoal runs to limits. Where more is used already,
// the kernel refuses with EBUSY and the caller tries again later.
func (t *Tree) SetRoot(limits Limits) error {
	if t.root == "/" {
		return nil // the host's own group cannot be limited
	}
	if err := t.set(t.root, limits); err != nil {
		return fmt.Errorf("limit control group %s: %w", t.root, err)
	}
	return nil
}
