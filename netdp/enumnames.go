package netdp

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// enumNames are the words for the numbers of an enum of the programs, from
// their own debug information: DROP_NO_BACKEND is "no-backend". What is added
// there has its name here.
func enumNames(types *btf.Spec, enum, prefix string) ([]string, error) {
	var e *btf.Enum
	if err := types.TypeByName(enum, &e); err != nil {
		return nil, fmt.Errorf("read names of %s: %w", enum, err)
	}
	names := make([]string, len(e.Values))
	for _, v := range e.Values {
		if v.Value >= uint64(len(names)) {
			return nil, fmt.Errorf("read names of %s: %s is %d, beyond the %d values there are", enum, v.Name, v.Value, len(names))
		}
		names[v.Value] = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(v.Name, prefix), "_", "-"))
	}
	return names, nil
}

// nameOf is a number's word, or the number for what a newer program added.
func nameOf(names []string, n int) string {
	if n < len(names) && names[n] != "" {
		return names[n]
	}
	return fmt.Sprintf("number-%d", n)
}
