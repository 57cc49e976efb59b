package cli

import (
	"strings"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
)

func TestFlowLine(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.Local)
	for _, c := range []struct {
		flow v1.Flow
		want string
	}{
		{v1.Flow{Time: at, Host: "host1", Verdict: v1.Forwarded, Protocol: "TCP", Service: "web/shop:80/TCP", Count: 1,
			Source: v1.FlowEnd{Pod: "web/front"}, Destination: v1.FlowEnd{Address: "10.0.0.10:80"}, Backend: v1.FlowEnd{Address: "10.64.0.5:8080", Pod: "web/shop-1"}},
			"03:04:05.678  host1  forwarded  TCP     web/front -> 10.0.0.10:80  service web/shop:80/TCP  by web/shop-1 (10.64.0.5:8080)"},
		{v1.Flow{Time: at, Host: "host1", Verdict: v1.Dropped, Protocol: "UDP", Reason: "spoofed-source", Count: 17,
			Source: v1.FlowEnd{Address: "192.0.2.1:7"}, Destination: v1.FlowEnd{Address: "192.0.2.9:53", Node: "host2"}},
			"03:04:05.678  host1  dropped    UDP     192.0.2.1:7 -> host host2 (192.0.2.9:53)  spoofed-source  x17"},
		{v1.Flow{Time: at, Host: "host1", Verdict: v1.Closed, Protocol: "TCP"}, "03:04:05.678  host1  closed     TCP     ? -> ?"},
		{v1.Flow{Time: at, Host: "host1", Verdict: v1.Lost, Count: 3}, "03:04:05.678  host1  lost       3 records: there were too many at once"},
	} {
		if got := flowLine(&c.flow, 5); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

// Flows have a head for people, as wide as the longest name of a host.
func TestFlowHead(t *testing.T) {
	var out strings.Builder
	show := (&FlowsCmd{}).printer(&out, []*hostClient{{name: "h"}, {name: "host-22"}})
	for _, host := range []string{"h", "host-22"} {
		if err := show(&v1.Flow{Host: host, Verdict: v1.Dropped, Protocol: "ICMPv6"}); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || lines[0] != "TIME          HOST     VERDICT    PROTO   CALLER -> CALLED" {
		t.Fatalf("%q", out.String())
	}
	for _, line := range lines[1:3] {
		if strings.Index(line, "ICMPv6") != strings.Index(lines[0], "PROTO") {
			t.Errorf("%q is not below %q", line, lines[0])
		}
	}
}
