package flows

import (
	"testing"

	v1 "shoal/api/control/v1"
)

func TestFilter(t *testing.T) {
	flow := v1.Flow{Verdict: v1.Forwarded, Service: "shop/db:5432/TCP",
		Source: v1.FlowEnd{Pod: "web/front"}, Destination: v1.FlowEnd{Pod: "shop/db-0"}}
	drop := flow
	drop.Verdict = v1.Dropped
	backend := v1.Flow{Verdict: v1.Forwarded, Source: v1.FlowEnd{Address: "192.0.2.7:1"}, Backend: v1.FlowEnd{Pod: "shop/db-0"}}
	service := v1.Flow{Verdict: v1.Dropped, Service: "shop/db:5432/TCP"}
	lost := v1.Flow{Verdict: v1.Lost, Count: 3}
	for _, c := range []struct {
		name string
		f    filter
		flow v1.Flow
		want bool
	}{
		{"everything", filter{}, flow, true},
		{"drops, of a forwarded one", filter{dropped: true}, flow, false},
		{"drops", filter{dropped: true}, drop, true},
		{"by the source's pod", filter{pod: "web/front"}, flow, true},
		{"by the destination's pod", filter{pod: "shop/db-0"}, flow, true},
		{"by the backend's pod", filter{pod: "shop/db-0"}, backend, true},
		{"by another pod", filter{pod: "shop/db"}, flow, false},
		{"by the source's namespace", filter{namespace: "web"}, flow, true},
		{"by the service's namespace", filter{namespace: "shop"}, service, true},
		{"by the beginning of a namespace", filter{namespace: "sho"}, flow, false},
		{"what was lost", filter{dropped: true, pod: "a/b", namespace: "c"}, lost, true},
	} {
		if got := c.f.matches(&c.flow); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestReadFilter(t *testing.T) {
	for query, ok := range map[string]bool{"web/front": true, "front": false, "a/b/c": false, "": true} {
		if _, err := readFilter(map[string][]string{"pod": {query}}); (err == nil) != ok {
			t.Errorf("pod=%s: %v", query, err)
		}
	}
}
