package slices

import "fmt"

// Stamp is what a binding carries: who placed the pod, as leader of which slice,
// in which epoch.
type Stamp struct {
	Slice  int
	Epoch  int64
	Leader string
}

// StampKey is the annotation of a pod with its Stamp.
const StampKey = "scheduling.shoal.dev/bound-by"

// String is the annotation's value, "17/42/node-a".
func (s Stamp) String() string { return fmt.Sprintf("%d/%d/%s", s.Slice, s.Epoch, s.Leader) }

// ParseStamp reads String's form.
func ParseStamp(text string) (Stamp, error) {
	var s Stamp
	if _, err := fmt.Sscanf(text, "%d/%d/%s", &s.Slice, &s.Epoch, &s.Leader); err != nil || s.Slice < 0 || s.Slice >= Count || s.Epoch < 1 {
		return Stamp{}, fmt.Errorf("%q is no stamp of a binding, which is SLICE/EPOCH/LEADER", text)
	}
	return s, nil
}
