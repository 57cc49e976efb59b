package loadbalancer

import (
	"net/netip"
	"testing"
)

func TestParseRange(t *testing.T) {
	for _, test := range []struct {
		text        string
		first, last string
		size        uint64
	}{
		{"192.0.2.10-192.0.2.20", "192.0.2.10", "192.0.2.20", 11},
		{" 192.0.2.10 - 192.0.2.10 ", "192.0.2.10", "192.0.2.10", 1},
		{"192.0.2.7", "192.0.2.7", "192.0.2.7", 1},
		{"192.0.2.16/28", "192.0.2.17", "192.0.2.30", 14},
		{"192.0.2.19/28", "192.0.2.17", "192.0.2.30", 14},
		{"192.0.2.16/30", "192.0.2.17", "192.0.2.18", 2},
		{"192.0.2.16/31", "192.0.2.16", "192.0.2.17", 2}, // RFC 3021
		{"192.0.2.16/32", "192.0.2.16", "192.0.2.16", 1},
		{"2001:db8::/124", "2001:db8::1", "2001:db8::f", 15},
		{"2001:db8::8/128", "2001:db8::8", "2001:db8::8", 1},
		{"2001:db8::/48", "2001:db8::1", "2001:db8:0:ffff:ffff:ffff:ffff:ffff", maxRange},
		{"2001:db8::ffff-2001:db8::1:1", "2001:db8::ffff", "2001:db8::1:1", 3},
		{"2001:db8:0:0:ffff:ffff:ffff:ffff-2001:db8:0:1::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1", 3},
		{"::ffff:192.0.2.1-192.0.2.2", "192.0.2.1", "192.0.2.2", 2},
	} {
		r, err := ParseRange(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if r.First != netip.MustParseAddr(test.first) || r.Last != netip.MustParseAddr(test.last) || r.Size() != test.size {
			t.Errorf("%s: %s to %s, %d addresses; want %s to %s, %d", test.text, r.First, r.Last, r.Size(), test.first, test.last, test.size)
		}
		if r.At(0) != r.First || test.size < maxRange && r.At(r.Size()-1) != r.Last {
			t.Errorf("%s: begins with %s and ends with %s", test.text, r.At(0), r.At(r.Size()-1))
		}
		if !r.Contains(r.First) || !r.Contains(r.Last) || r.Contains(r.First.Prev()) || r.Contains(r.Last.Next()) {
			t.Errorf("%s does not contain exactly what lies between its ends", test.text)
		}
	}
	for _, bad := range []string{
		"", "-", "192.0.2.1-", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.0/33", "example.org", "192.0.2.1-192.0.2.2-192.0.2.3",
		"127.0.0.1", "0.0.0.0", "::/0", "224.0.0.1", "ff02::1", "169.254.0.0/16", "fe80::1", "fe80::1%eth0",
	} {
		if r, err := ParseRange(bad); err == nil {
			t.Errorf("%q was read as %v", bad, r)
		}
	}
}
