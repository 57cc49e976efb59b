package wireguard

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDifference(t *testing.T) {
	peer := func(key byte, endpoint string, allowed ...string) Peer {
		p := Peer{Key: Key{key}, Endpoint: netip.MustParseAddrPort(endpoint)}
		for _, a := range allowed {
			p.Allowed = append(p.Allowed, netip.MustParsePrefix(a))
		}
		return p
	}
	of := func(peers ...Peer) map[Key]Peer {
		out := map[Key]Peer{}
		for _, p := range peers {
			out[p.Key] = p
		}
		return out
	}
	one := peer(1, "192.0.2.1:7948", "10.64.1.0/24")
	for _, c := range []struct {
		name       string
		have, want map[Key]Peer
		changes    string // key: what
	}{
		{"nothing", of(one), of(one), ""},
		{"a first one", of(), of(one), "1 new at 192.0.2.1:7948"},
		{"one that leaves", of(one, peer(2, "192.0.2.2:7948")), of(one), "2 gone"},
		{"another address keeps the session", of(one), of(peer(1, "192.0.2.7:7948", "10.64.1.0/24")), "1 at 192.0.2.7:7948"},
		{"another range leaves the endpoint", of(one), of(peer(1, "192.0.2.1:7948", "10.64.7.0/24")), "1"},
		{"a new key has the range only after the old one", of(peer(9, "192.0.2.1:7948", "10.64.1.0/24")), of(one), "9 gone, 1 new at 192.0.2.1:7948"},
	} {
		var got []string
		for _, change := range difference(c.have, c.want) {
			text := fmt.Sprint(change.Key[0])
			if change.gone {
				text += " gone"
			}
			if change.isNew {
				text += " new"
			}
			if change.endpoint {
				text += " at " + change.Endpoint.String()
			}
			got = append(got, text)
		}
		if text := strings.Join(got, ", "); text != c.changes {
			t.Errorf("%s: got %q, want %q", c.name, text, c.changes)
		}
	}
}

func TestParseStats(t *testing.T) {
	one, two := Key{1}, Key{0xfe, 2}
	text := fmt.Sprintf("private_key=00\nlisten_port=7948\ntx_bytes=9\npublic_key=%x\nendpoint=192.0.2.1:7948\nlast_handshake_time_sec=1700000000\n"+
		"last_handshake_time_nsec=5\ntx_bytes=148\nrx_bytes=92\npublic_key=%x\nlast_handshake_time_sec=0\ntx_bytes=0\nrx_bytes=0\n", one[:], two[:])
	got, err := parseStats(text)
	want := map[Key]Stats{one: {Handshake: time.Unix(1_700_000_000, 0), Sent: 148, Received: 92}, two: {}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"public_key=zz\n", "public_key=01\n", fmt.Sprintf("public_key=%x\ntx_bytes=-1\n", one[:])} {
		if _, err := parseStats(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestUnheard(t *testing.T) {
	for s, want := range map[Stats]bool{
		{}: false, {Sent: 148}: true, {Sent: 148, Received: 92}: false,
		{Sent: 148, Handshake: time.Unix(1, 0)}: false,
	} {
		if s.Unheard() != want {
			t.Errorf("%+v is unheard: %v", s, !want)
		}
	}
}
