//go:build linux

package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "shoal/api/control/v1"
	"shoal/cmd/shoal/internal/daemon"
)

// dialTimeout bounds one attempt to reach a peer.
const dialTimeout = 2 * time.Second

// maxPeersAsked bounds how long a large cell takes; failures show in `status`.
const maxPeersAsked = 8

func apiPort(h *host) int {
	_, text, err := net.SplitHostPort(h.Config.APIAddr)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(text)
	return n
}

func agentPort(h *host) int { return h.Config.AgentPort }

// Membership is heard on the port of the configuration, records on the next.
func gossipPort(h *host) int  { return cmp.Or(h.Config.GossipPort, daemon.DefaultGossipPort) }
func recordsPort(h *host) int { return gossipPort(h) + 1 }

// port checks that a port can be had, or that our own daemon has it.
func port(network string, number func(*host) int) func(context.Context, *host) Finding {
	return func(ctx context.Context, h *host) Finding {
		n := number(h)
		if n == 0 {
			return skip("no port is set")
		}
		err := tryPort(ctx, network, n)
		switch {
		case err == nil:
			return judgePort(network, n, true, holder{}, h.DaemonPID)
		case errors.Is(err, syscall.EADDRINUSE):
			return judgePort(network, n, false, findHolder(network, n), h.DaemonPID)
		case errors.Is(err, syscall.EACCES):
			return skip("needs root")
		}
		return fail("ip addr", "%d/%s cannot be listened on: %v", n, network, err)
	}
}

func tryPort(ctx context.Context, network string, n int) error {
	address := fmt.Sprintf(":%d", n)
	if network == "udp" {
		c, err := new(net.ListenConfig).ListenPacket(ctx, network, address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	return l.Close()
}

// listening is the state of a socket in /proc/net: for TCP that of a listener,
// for UDP that of one without a peer.
var listening = map[string]string{"tcp": "0A", "udp": "07"}

// findHolder looks for the process by its socket, as ss does.
func findHolder(network string, n int) holder {
	inodes := map[string]bool{}
	for _, table := range []string{network, network + "6"} {
		content, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue
		}
		for _, inode := range socketInodes(string(content), n, listening[network]) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil || !inodes[target] {
			continue
		}
		text := strings.Split(file, "/")[2]
		pid, _ := strconv.Atoi(text)
		name, _ := os.ReadFile("/proc/" + text + "/comm")
		return holder{pid: pid, name: strings.TrimSpace(string(name))}
	}
	return holder{}
}

// socketInodes reads a table of proc(5): the inodes of sockets on local port n
// in the given state.
func socketInodes(table string, n int, state string) []string {
	var found []string
	suffix := fmt.Sprintf(":%04X", n)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == state {
			found = append(found, f[9])
		}
	}
	return found
}

func lookMTU(_ context.Context, h *host) Finding {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return skip("list routes: %v", err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		h.mtu = link.Attrs().MTU
		if r.MTU > 0 {
			h.mtu = r.MTU
		}
		return judgeMTU(link.Attrs().Name, h.mtu)
	}
	return warn("ip route add default via GATEWAY", "this host has no default route; give the daemon its address with --node-ip")
}

func lookDaemon(ctx context.Context, h *host) Finding {
	if h.Status == nil {
		return skip("none runs on %s; start it with: shoal start --detach", h.Config.DataDir)
	}
	status, err := h.Status(ctx)
	if err != nil {
		return fail("tail "+filepath.Join(h.Config.DataDir, "shoal.log"), "pid %d runs and does not answer: %v", h.DaemonPID, err)
	}
	if len(status.Alarms) == 0 {
		return ok("pid %d answers, no alarms", h.DaemonPID)
	}
	a := status.Alarms[0]
	f := warn(a.Fix, "%s (%d alarms, see `shoal status`)", a.Title, len(status.Alarms))
	if a.Severity == v1.Critical {
		f.Result = Fail
	}
	return f
}

func lookSkew(ctx context.Context, h *host) Finding {
	status, f := h.ask(ctx)
	if status == nil {
		return f
	}
	return judgeSkew(status.Peers, status.Peer)
}

// ask returns the daemon's status, or why there is none.
func (h *host) ask(ctx context.Context) (*v1.Status, Finding) {
	if h.Status == nil {
		return nil, skip("no daemon runs here")
	}
	status, err := h.Status(ctx)
	if err != nil {
		return nil, skip("the daemon does not answer")
	}
	return status, Finding{}
}

// lookPeers tries the ports of other peers that are said to be alive.
func lookPeers(ctx context.Context, h *host) Finding {
	status, f := h.ask(ctx)
	if status == nil {
		return f
	}
	var failed []unreachable
	asked, peers, paths := 0, 0, map[string]int{}
	for _, p := range status.Peers {
		if p.Name == status.Peer || p.State != v1.Alive || peers == maxPeersAsked {
			continue
		}
		peers++
		for _, address := range []string{p.API, net.JoinHostPort(p.Address, strconv.Itoa(gossipPort(h))), net.JoinHostPort(p.Address, strconv.Itoa(recordsPort(h)))} {
			if address == "" {
				continue
			}
			asked++
			mtu, err := dial(ctx, address)
			if err != nil {
				failed = append(failed, unreachable{p.Name, address, err})
			} else if mtu > 0 {
				paths[p.Name] = mtu
			}
		}
	}
	return judgePeers(asked, failed, paths, h.mtu)
}

// dial connects, says nothing, and returns what the kernel knows the path to
// carry.
func dial(ctx context.Context, address string) (pathMTU int, err error) {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			pathMTU = int(info.Pmtu)
		}
	})
	return pathMTU, err
}
