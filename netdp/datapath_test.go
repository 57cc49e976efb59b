package netdp

import (
	"net/netip"
	"testing"
	"time"
)

// ioTimeout ends a test whose packets are lost; no test asserts on it.
const ioTimeout = 5 * time.Second

func deadline() time.Time { return time.Now().Add(ioTimeout) }

func TestServiceTCP(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	l.serveTCP(server, ":8080", "server")

	err := d.SetService(Service{
		Key: "default/web:80", Proto: TCP,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}},
		Backends:  []Backend{{Addr: netip.AddrPortFrom(serverIP, 8080)}},
	})
	l.must(err)
	for _, c := range []struct {
		name string
		from namespace
		to   string
		seen string
	}{
		{"pod to pod", client, serverIP.String() + ":8080", clientIP.String()},
		{"host to pod", l.host, serverIP.String() + ":8080", labHostIP},
		{"pod to cluster IP", client, "10.0.0.10:80", clientIP.String()},
		{"pod to itself by cluster IP", server, "10.0.0.10:80", serverIP.String()},
		{"host to cluster IP", l.host, "10.0.0.10:80", labHostIP},
		{"pod to node port", client, labHostIP + ":30080", clientIP.String()},
		{"host to node port", l.host, labHostIP + ":30080", labHostIP},
		{"host to node port on loopback", l.host, "127.0.0.1:30080", labHostIP},
		{"other machine to node port", l.outside, labHostIP + ":30080", labOutsideIP},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := *l
			l.t = t
			if got, want := l.ask(c.from, "tcp4", c.to), "server "+c.seen+" hello"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
