package netdp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

func TestRefusedAndLeftAlone(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	l.serveTCP(server, ":80", "server")
	service := Service{Key: "web", Proto: TCP, Frontends: []Frontend{
		{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080},
	}}
	l.must(d.SetService(service))

	t.Run("no backend", func(t *testing.T) {
		for _, to := range []string{"10.0.0.10:80", labHostIP + ":30080"} {
			if _, err := dial(client, "tcp4", to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("connecting to %s gave %v, want connection refused", to, err)
			}
		}
		if _, err := dial(l.outside, "tcp4", labHostIP+":30080"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connecting from another machine gave %v, want connection refused", err)
		}
	})
	service.Backends = []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}}
	l.must(d.SetService(service))
	t.Run("mapped address", func(t *testing.T) { // as Java and other dual-stack sockets call
		l.must(client.do(func() error { return connectMapped("10.0.0.10", 80) }))
	})
	t.Run("a pod's loopback is its own", func(t *testing.T) {
		if _, err := dial(client, "tcp4", "127.0.0.1:30080"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("got %v, want connection refused", err)
		}
	})
	t.Run("ports of services cannot be taken", func(t *testing.T) {
		l.must(d.SetService(Service{Key: "host port", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP), Port: 8088, Outside: true}}}))
		l.must(d.SetService(Service{Key: "high", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP), Port: 40088, Outside: true}}}))
		l.must(d.SetService(Service{Key: "shared", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("198.18.0.200"), Port: 8090, Outside: true}}}))
		defer func() {
			for _, key := range []string{"host port", "high", "shared"} {
				l.must(d.DeleteService(key))
			}
		}()
		for _, c := range []struct {
			ns      namespace
			network string
			addr    string
			want    error
		}{
			{l.host, "tcp4", ":30080", unix.EADDRINUSE},
			{l.host, "tcp", ":30080", unix.EADDRINUSE},
			{l.host, "tcp4", labHostIP + ":30080", unix.EADDRINUSE},
			{l.host, "tcp4", ":30081", nil},
			{l.host, "tcp4", ":8088", unix.EADDRINUSE},
			{l.host, "tcp", ":8088", unix.EADDRINUSE},
			{l.host, "tcp4", labHostIP + ":8088", unix.EADDRINUSE},
			{l.host, "tcp4", "127.0.0.1:8088", nil}, // the hostPort is not there
			{l.host, "tcp4", ":8089", nil},
			{l.host, "tcp4", ":8090", nil},  // the service is at another address
			{l.host, "tcp4", ":40088", nil}, // the kernel gives such ports to anybody
			{client, "tcp4", ":8088", nil},
			{client, "tcp4", ":30080", nil}, // a pod has its own ports
		} {
			err := c.ns.do(func() error {
				ln, err := net.Listen(c.network, c.addr)
				if err == nil {
					_ = ln.Close()
				}
				return err
			})
			if !errors.Is(err, c.want) {
				t.Errorf("listening on %s %s gave %v, want %v", c.network, c.addr, err, c.want)
			}
		}
	})
	t.Run("bypass", func(t *testing.T) {
		path := d.pods.records.netns("client")
		l.must(d.SetBypass(path, true))
		if c, err := dial(client, "tcp4", "10.0.0.10:80"); err == nil {
			t.Errorf("connected to %s", c.RemoteAddr())
		}
		l.ask(l.host, "tcp4", "10.0.0.10:80")
		l.must(d.SetBypass(path, false))
		l.ask(client, "tcp4", "10.0.0.10:80")
	})
	t.Run("the service is deleted", func(t *testing.T) {
		l.must(d.DeleteService("web"))
		l.must(d.DeleteService("web"))
		if c, err := dial(l.outside, "tcp4", labHostIP+":30080"); err == nil {
			t.Errorf("connected to %s", c.RemoteAddr())
		}
		if services, backends, _ := kernelEntries(t, d); services+backends != 0 {
			t.Errorf("kernel still has %d services, %d backends", services, backends)
		}
	})
}

// connectMapped connects an IPv6 socket to an IPv4 address.
func connectMapped(addr string, port int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet6{Port: port, Addr: netip.AddrFrom16(netip.MustParseAddr(addr).As16()).As16()}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	if got := peer.(*unix.SockaddrInet6); got.Addr != to.Addr || got.Port != port {
		return fmt.Errorf("peer is %v port %d, want the service", netip.AddrFrom16(got.Addr), got.Port)
	}
	return nil
}

func TestHostAsBackend(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, clientIP := l.pod(d, "client")
	l.serveTCP(l.host, labHostIP+":6443", "api")
	l.must(d.SetService(Service{
		Key: "default/kubernetes:443", Proto: TCP,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.1"), Port: 443}, {Port: 30443}},
		Backends:  []Backend{{Addr: netip.MustParseAddrPort(labHostIP + ":6443")}},
	}))
	for _, c := range []struct {
		from     namespace
		to, seen string
	}{
		{client, "10.0.0.1:443", clientIP.String()},
		{l.host, "10.0.0.1:443", labHostIP},
		{l.outside, labHostIP + ":30443", labOutsideIP},
	} {
		if got := l.ask(c.from, "tcp4", c.to); got != "api "+c.seen+" hello" {
			t.Errorf("got %q", got)
		}
	}
}

func TestPortInUseIsNoticed(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	l.serveTCP(l.host, ":30080", "everywhere")
	l.serveTCP(l.host, labHostIP+":8080", "at one address")
	service := Service{Key: "web", Proto: TCP, Frontends: []Frontend{
		{Port: 30080}, {Port: 30081}, // the second is free
		{Addr: netip.MustParseAddr(labHostIP), Port: 8080, Outside: true}, {Addr: netip.MustParseAddr("127.0.0.1"), Port: 8080},
		{Addr: netip.MustParseAddr("203.0.113.1"), Port: 8080, Outside: true}, // not the host's
	}}
	if got := fmt.Sprint(d.PortsInUse(service)); got != "[node port 30080 "+labHostIP+":8080]" {
		t.Errorf("in use are %s", got)
	}
	udp := service
	udp.Proto = UDP
	if got := d.PortsInUse(udp); len(got) > 0 {
		t.Errorf("of UDP in use are %v", got)
	}
	l.must(d.SetService(service))
	if got := d.PortsInUse(service); len(got) > 0 {
		t.Errorf("when they are the service's, in use are %v", got)
	}
}

// The guard of a service's IPv4 node port is no process that listens at IPv6; one
// that does is noticed all the same.
func TestDualStackNodePortIsFree(t *testing.T) {
	for _, proto := range []Proto{TCP, UDP} {
		t.Run(proto.String(), func(t *testing.T) {
			l := newLab(t)
			d := l.openUntilEnd()
			if proto == TCP {
				l.serveTCP(l.host, "[::1]:30085", "process")
			} else {
				l.serveUDP(l.host, "[::1]:30085", "process")
			}
			l.must(d.SetService(Service{Key: "web", Proto: proto, Frontends: []Frontend{{Port: 30083}, {Port: 30085}}}))
			of6 := Service{Key: "web6", Proto: proto, Frontends: []Frontend{
				{Addr: NodePortIPv6, Port: 30083}, {Addr: NodePortIPv6, Port: 30085},
			}}
			if got := fmt.Sprint(d.PortsInUse(of6)); got != "[IPv6 node port 30085]" {
				t.Errorf("in use are %s", got)
			}
		})
	}
}

func TestFrontendTaken(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	first := Service{Key: "first", Proto: TCP, Frontends: []Frontend{{Port: 30080}}}
	second := Service{Key: "second", Proto: TCP, Frontends: []Frontend{{Port: 30080}}}
	l.must(d.SetService(first))
	var taken *FrontendTakenError
	if err := d.SetService(second); !errors.As(err, &taken) || taken.Holder != "first" {
		t.Fatalf("got %v", err)
	}
	l.must(d.DeleteService("first"))
	l.must(d.SetService(second))

	// The same port at one of the host's addresses is as good as taken.
	hostPort := Service{Key: "hostPort", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP), Port: 30080, Outside: true}}}
	if err := d.SetService(hostPort); !errors.As(err, &taken) || taken.Holder != "second" {
		t.Fatalf("a hostPort that is a node port gave %v", err)
	}
	l.must(d.DeleteService("second"))
	l.must(d.SetService(hostPort))
	if err := d.SetService(second); !errors.As(err, &taken) || taken.Holder != "hostPort" {
		t.Fatalf("a node port that is a hostPort gave %v", err)
	}
	second.Proto = UDP
	l.must(d.SetService(second))
}

func TestBadOptions(t *testing.T) {
	good := Options{
		StateDir: "/a", BPFFSDir: "/b", CgroupRoot: "/sys/fs/cgroup", Logger: slog.Default(),
		PodCIDR: netip.MustParsePrefix("10.64.7.0/24"),
	}
	for name, spoil := range map[string]func(*Options){
		"StateDir":     func(o *Options) { o.StateDir = "relative" },
		"PodCIDR":      func(o *Options) { o.PodCIDR = netip.Prefix{} },
		"overlaps":     func(o *Options) { o.ServiceCIDR = netip.MustParsePrefix("10.64.0.0/16") },
		"inside":       func(o *Options) { o.NodeIPs = []netip.Addr{netip.MustParseAddr("10.64.7.9")} },
		"Logger":       func(o *Options) { o.Logger = nil },
		"at least fou": func(o *Options) { o.PodCIDR = netip.MustParsePrefix("10.64.7.0/31") },
	} {
		o := good
		spoil(&o)
		if err := o.complete(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := checkCgroup("/tmp"); err == nil || !strings.Contains(err.Error(), "cgroup2") {
			t.Errorf("a directory outside cgroup2 gave %v", err)
		}
	}
}
