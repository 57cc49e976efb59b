package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestBadNetworkFlagsSayWhatToChange, as a person types them.
func TestBadNetworkFlagsSayWhatToChange(t *testing.T) {
	for _, test := range []struct {
		args  []string
		names []string // in the error; none: there is none
	}{
		{[]string{"--map-limits", "flows=abc"}, []string{"flows", "abc", "number"}},
		{[]string{"--map-limits", "flows=-1"}, []string{"flows", "number"}},
		{[]string{"--map-limits", "nothing=4096"}, []string{"nothing"}},
		{[]string{"--map-limits", "flows=262144"}, nil},
		{[]string{"--cni-conf-dir", "/etc/cni/net.d"}, []string{"--cni-conf-dir", "--network-driver cni"}},
		{[]string{"--cni-bin-dir", "/x"}, []string{"--cni-bin-dir", "--network-driver cni"}},
		{[]string{"--cni-bin-dir", "/x", "--network-driver", "cni"}, nil},
		{nil, nil},
	} {
		var flags NetFlags
		parser, err := kong.New(&flags)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parser.Parse(test.args)
		if err == nil {
			err = flags.checkDriver()
		}
		if err == nil {
			_, err = flags.mapLimits()
		}
		if (err == nil) != (test.names == nil) {
			t.Errorf("%q: %v", test.args, err)
		}
		for _, name := range test.names {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%q: %v; want an error naming %q", test.args, err, name)
			}
		}
	}
}
