package netdp

import (
	"errors"

	"golang.org/x/sys/unix"
)

// warnTakenNodePorts notices a process of the host that listens on a node port
// before the service gets it. From then on its callers reach the service, so
// somebody should know; later ones cannot bind (post_bind refuses).
func (d *Datapath) warnTakenNodePorts(s Service) {
	for _, f := range s.Frontends {
		if f.Addr.IsValid() || d.table.has(f, s.Proto) {
			continue
		}
		taken := false
		err := d.host.do(func() (err error) {
			taken, err = portTaken(f.Port, s.Proto)
			return err
		})
		if err != nil {
			d.log.Warn("check node port", "service", s.Key, "port", f.Port, "error", err)
		}
		if taken {
			d.log.Warn("a process of this host listens on the node port of a service: callers now reach the service; stop the process or change the port",
				"service", s.Key, "protocol", s.Proto.String(), "port", f.Port)
		}
	}
}

// portTaken tries to bind the port in the calling thread's namespace.
func portTaken(port uint16, proto Proto) (bool, error) {
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if proto == TCP { // connections that linger are no listener
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false, err
		}
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	if errors.Is(err, unix.EADDRINUSE) {
		return true, nil
	}
	return false, err
}

func (t *table) has(f Frontend, p Proto) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frontends[frontendKey(f, p)] != nil
}
