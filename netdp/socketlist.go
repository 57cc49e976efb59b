package netdp

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// tcpListen is the state of a listener in the kernel's lists (TCP_LISTEN).
const tcpListen = "0A"

// listensIPv6 looks in the calling thread's namespace for an IPv6 socket that
// gets calls to f: a listener of TCP, or any socket of UDP.
func listensIPv6(f Frontend, proto Proto) (bool, error) {
	path := "/proc/thread-self/net/tcp6"
	if proto == UDP {
		path = "/proc/thread-self/net/udp6"
	}
	list, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("list sockets: %w", err)
	}
	defer list.Close()
	return listed(list, f, proto)
}

// listed reads lines as proc_pid_net(5) has them: after a heading "sl
// local_address remote_address st ...", addresses as four words of the
// machine's byte order and a port, all in hexadecimal.
func listed(list io.Reader, f Frontend, proto Proto) (bool, error) {
	lines := bufio.NewScanner(list)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || proto == TCP && fields[3] != tcpListen {
			continue
		}
		local, err := socketAddress(fields[1])
		if err != nil {
			return false, err
		}
		anyAddr := !local.Addr.IsValid()
		if local.Port == f.Port && (anyAddr || f.nodePort() || local.Addr == f.Addr) {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("list sockets: %w", err)
	}
	return false, nil
}

// socketAddress reads the address and port of one end; no address is any.
func socketAddress(field string) (Frontend, error) {
	addr, port, _ := strings.Cut(field, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(addr) != 32 {
		return Frontend{}, fmt.Errorf("list sockets: %q is no address and port", field)
	}
	var words [4]uint32
	for i := range words {
		w, err := strconv.ParseUint(addr[8*i:8*i+8], 16, 32)
		if err != nil {
			return Frontend{}, fmt.Errorf("list sockets: address %q: %w", field, err)
		}
		words[i] = uint32(w)
	}
	return Frontend{Addr: addrFromWire(words), Port: uint16(p)}, nil
}
