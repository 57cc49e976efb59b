package netdp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"shoal/test/eventually"
)

// The programs that people look with, through services of both families.

// toolTimeout ends a program that hangs; none needs more than a second.
const toolTimeout = 30 * time.Second

// runTool runs a program in a namespace and returns what it prints.
func (l *lab) runTool(ns namespace, argv ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), toolTimeout)
	defer cancel()
	var out []byte
	err := ns.do(func() (err error) {
		out, err = exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		return err
	})
	if err != nil {
		l.t.Errorf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// toolService is a service of a pod at addresses of both families, and at a node
// port of each.
func (l *lab) toolService(d *Datapath, key string, proto Proto, port uint16, pod, pod6 netip.Addr, nodePort uint16) {
	l.t.Helper()
	for family, backend := range map[string]netip.Addr{"10.0.0.10": pod, "fd00:64:8::10": pod6} {
		node := Frontend{Port: nodePort}
		if backend.Is6() {
			node.Addr = NodePortIPv6
		}
		l.must(d.SetService(Service{Key: key + family, Proto: proto, Backends: []Backend{{Addr: netip.AddrPortFrom(backend, port)}},
			Frontends: []Frontend{{Addr: netip.MustParseAddr(family), Port: port}, node}}))
	}
}

func TestCurl(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	server, ip6 := l.pod6(d, "server")
	client, _ := l.pod6(d, "client")
	var ln net.Listener
	l.must(server.do(func() (err error) {
		ln, err = net.Listen("tcp", ":80")
		return err
	}))
	web := http.Server{ReadHeaderTimeout: toolTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %d bytes", r.Host, n)
	})}
	go func() { _ = web.Serve(ln) }()
	t.Cleanup(func() { _ = web.Close() })
	l.toolService(d, "web", TCP, 80, d.pods.byUID["server"].record.Address, ip6, 30080)
	curl := func(ns namespace, host string) {
		t.Helper()
		out := l.runTool(ns, "curl", "--silent", "--show-error", "--globoff", "--noproxy", "*", "--max-time", "20",
			"--data-binary", strings.Repeat("x", 1<<16), "http://"+host+"/")
		if want := fmt.Sprint(host, " ", 1<<16, " bytes"); out != want {
			t.Errorf("curl %s gives %q, want %q", host, out, want)
		}
	}
	for _, ns := range []namespace{client, server, l.host} { // the server calls itself
		curl(ns, "10.0.0.10")
		curl(ns, "[fd00:64:8::10]")
	}
	l.outsideCgroup(func() {
		curl(l.outside, labHostIP+":30080")
		curl(l.outside, node6(30080))
	})
}

func TestIperf3(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	server, ip6 := l.pod6(d, "server")
	client, _ := l.pod6(d, "client")
	const port = 5201
	for _, proto := range []Proto{TCP, UDP} {
		l.toolService(d, "iperf "+proto.String(), proto, port, d.pods.byUID["server"].record.Address, ip6, 30201)
	}
	ctx, cancel := context.WithCancel(t.Context())
	daemon := exec.CommandContext(ctx, "iperf3", "--server", "--port", fmt.Sprint(port))
	l.must(server.do(daemon.Start))
	t.Cleanup(func() {
		cancel()
		_ = daemon.Wait() // it was killed
	})
	for _, addr := range []string{"10.0.0.10", "fd00:64:8::10"} {
		eventually.True(t, "iperf3 listens", func() bool {
			c, err := dial(client, "tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		for _, kind := range [][]string{nil, {"--reverse"}, {"--udp", "--bitrate", "0", "--length", "1200"}} {
			// One that has just served another says that it is busy.
			eventually.True(t, "iperf3 measures", func() bool {
				out := l.iperf3(client, append([]string{"--client", addr, "--port", fmt.Sprint(port), "--bytes", "4M", "--json"}, kind...))
				return out.Error == "" && (out.End.SumReceived.Bytes > 3<<20 || out.End.Sum.Packets > 1000 && out.End.Sum.LostPercent < 50)
			})
		}
	}
}

// iperfReport is the part of a report that tells whether anything came through.
type iperfReport struct {
	Error string
	End   struct {
		SumReceived struct{ Bytes int64 } `json:"sum_received"`
		Sum         struct {
			Packets     int64
			LostPercent float64 `json:"lost_percent"`
		}
	}
}

func (l *lab) iperf3(ns namespace, args []string) (out iperfReport) {
	ctx, cancel := context.WithTimeout(l.t.Context(), toolTimeout)
	defer cancel()
	var text []byte
	_ = ns.do(func() (err error) { // it fails with a report too
		text, err = exec.CommandContext(ctx, "iperf3", args...).Output()
		return err
	})
	if err := json.Unmarshal(text, &out); err != nil {
		out.Error = err.Error()
	}
	if out.Error != "" {
		l.t.Logf("iperf3 %s: %s", strings.Join(args, " "), out.Error)
	}
	return out
}
