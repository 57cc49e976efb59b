package netdp

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// PortsInUse are the frontends of s at this host's own addresses that were not
// set before and that a process of the host listens on. From when they are set
// its callers reach the service, so somebody should know; later ones cannot bind
// to such a port (post_bind refuses), unless it is of those that the kernel gives
// to anybody. What cannot be found out is logged.
func (d *Datapath) PortsInUse(s Service) (used []Frontend) {
	for _, f := range s.Frontends {
		if !d.ownFrontend(f) || d.table.has(f, s.Proto) {
			continue
		}
		taken := false
		err := d.host.do(func() (err error) {
			taken, err = portTaken(f, s.Proto)
			return err
		})
		if err != nil {
			d.log.Warn("check port of service", "service", s.Key, "address", f.String(), "error", err)
		}
		if taken {
			used = append(used, f)
		}
	}
	return used
}

func (d *Datapath) ownFrontend(f Frontend) bool {
	return f.nodePort() || f.Addr.IsLoopback() || slices.Contains(d.own.Load().node, f.Addr)
}

// portTaken tries to bind the port in the calling thread's namespace. To an IPv6
// socket post_bind also refuses the port of an IPv4 frontend, so that there the
// kernel's list of sockets has the last word.
func portTaken(f Frontend, proto Proto) (bool, error) {
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(f.Port)})
	switch {
	case f.Addr.Is4():
		to = &unix.SockaddrInet4{Port: int(f.Port), Addr: f.Addr.As4()}
	case f.Addr.Is6():
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(f.Port), Addr: f.Addr.As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return false, err
		}
	}
	if proto == TCP { // connections that linger are no listener
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false, err
		}
	}
	err = unix.Bind(fd, to)
	switch {
	case errors.Is(err, unix.EADDRINUSE) && family == unix.AF_INET6:
		return listensIPv6(f, proto)
	case errors.Is(err, unix.EADDRINUSE):
		return true, nil
	case errors.Is(err, unix.EADDRNOTAVAIL): // the address is not on any interface
		return false, nil
	}
	return false, err
}

func (t *table) has(f Frontend, p Proto) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frontends[frontendKey(f, p)] != nil
}
