package volume

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// pageSize is the size of a volume's pages: the medium's own, or the only one
// that the pod requests. The errors are the kubelet's.
func pageSize(medium v1.StorageMedium, pod *v1.Pod) (resource.Quantity, error) {
	var want, found resource.Quantity
	if medium != v1.StorageMediumHugePages {
		var err error
		if want, err = v1helper.HugePageSizeFromMedium(medium); err != nil {
			return found, err
		}
	}
	for _, size := range requestedPages(pod) {
		switch {
		case !want.IsZero():
			if size.Cmp(want) == 0 {
				found = size
			}
		case !found.IsZero() && found.Cmp(size) != 0:
			return found, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
		default:
			found = size
		}
	}
	if found.IsZero() {
		return found, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	return found, nil
}

func requestedPages(pod *v1.Pod) []resource.Quantity {
	var lists []v1.ResourceList
	if pod.Spec.Resources != nil {
		lists = append(lists, pod.Spec.Resources.Requests)
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		lists = append(lists, c.Resources.Requests)
	}
	var out []resource.Quantity
	for _, list := range lists {
		for name := range list {
			if !v1helper.IsHugePageResourceName(name) {
				continue
			}
			if size, err := v1helper.HugePageSizeFromResourceName(name); err == nil {
				out = append(out, size)
			}
		}
	}
	return out
}

// checkPageSize is for a volume that an earlier daemon mounted: a file
// system of huge pages has them as its block size.
func checkPageSize(r *Request, want resource.Quantity) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.Dir, &st); err != nil {
		return fmt.Errorf("statfs(%q): %w", r.Dir, err)
	}
	if st.Type == unix.HUGETLBFS_MAGIC && st.Bsize != want.Value() {
		return fmt.Errorf("pod %v: mounted dir %s pagesize '%d' and requested medium size '%s' differ", r.Pod.UID, r.Dir, st.Bsize, want.String())
	}
	return nil
}
