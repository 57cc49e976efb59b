package reserve

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func quantities(pairs ...string) v1.ResourceList {
	out := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func TestAllocatable(t *testing.T) {
	reserved, err := ParseReserved("cpu=500m, memory=1Gi,ephemeral-storage=5Gi,pid=1000")
	if err != nil {
		t.Fatal(err)
	}
	thresholds, err := ParseThresholds("")
	if err != nil {
		t.Fatal(err)
	}
	plan := Plan{Reserved: reserved, Thresholds: thresholds}
	host := quantities("cpu", "4", "memory", "8Gi", "ephemeral-storage", "100Gi", "pods", "250", "hugepages-2Mi", "1Gi", "example.com/x", "3")
	got := plan.Allocatable(host)
	for name, want := range quantities("cpu", "3500m", "memory", "6044Mi", "ephemeral-storage", "91268054880", "pods", "250", "hugepages-2Mi", "1Gi", "example.com/x", "3") {
		if q := got[name]; q.Cmp(want) != 0 {
			t.Errorf("%s: %s, want %s", name, q.String(), want.String())
		}
	}
	group := plan.Group(host)
	if group.CPUShares != 3584 || group.MemoryBytes != 7<<30 || group.PIDs <= 0 {
		t.Errorf("group: %+v", group)
	}
	if (Plan{}).Group(host).PIDs != 0 {
		t.Error("tasks are bounded though none are reserved")
	}
	if err := plan.Check(host); err != nil {
		t.Error(err)
	}
	if err := plan.Check(quantities("memory", "1Gi", "cpu", "2")); err == nil || !strings.Contains(err.Error(), "memory=1Gi leaves nothing") {
		t.Errorf("a plan that takes all: %v", err)
	}
	if q := plan.Allocatable(quantities("memory", "512Mi"))[v1.ResourceMemory]; !q.IsZero() {
		t.Errorf("less than nothing is left: %s", q.String())
	}
}

func TestBadText(t *testing.T) {
	for _, text := range []string{"memory", "memory=x", "memory=-1", "gpu=1", "cpu=1,=2"} {
		if _, err := ParseReserved(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	for _, text := range []string{"memory.available", "memory.available<x", "memory.available<-1", "memory.available<200%", "disk<1", "memory.available<1,memory.available<2"} {
		if _, err := ParseThresholds(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestThresholds(t *testing.T) {
	for text, want := range map[string]int{
		"":                                      6, // the kubelet's five, and memory within the pods' group
		"none":                                  0,
		"nodefs.available<10%":                  1,
		"memory.available<1Gi":                  2,
		"pid.available<5%":                      1,
		"nodefs.inodesFree<0%":                  0,
		"memory.available<1Gi,pid.available<1k": 3,
	} {
		got, err := ParseThresholds(text)
		if err != nil || len(got) != want {
			t.Errorf("%q: %v, %v; want %d", text, got, err, want)
		}
	}
}

func TestCapacity(t *testing.T) {
	got := Capacity(t.TempDir(), 7)
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, v1.ResourcePods} {
		if q := got[name]; q.Sign() <= 0 {
			t.Errorf("%s: %s", name, q.String())
		}
	}
}
