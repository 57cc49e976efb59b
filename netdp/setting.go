package netdp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// setting is a value of /proc/sys in a network namespace.
type setting struct {
	value string
	path  []string // below /proc/sys
}

func (s setting) file() string { return filepath.Join("/proc/sys", filepath.Join(s.path...)) }

// name is as sysctl(8) has it.
func (s setting) name() string { return strings.ReplaceAll(filepath.Join(s.path...), "/", ".") }

// write works in the calling thread's namespace. A family the kernel was built
// without has no file, which is not an error.
func (s setting) write() error {
	err := os.WriteFile(s.file(), []byte(s.value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s to %s: %w", s.file(), s.value, err)
	}
	return nil
}

// differs reports another value in the calling thread's namespace. What cannot be
// read is of no device that is there, or of no family.
func (s setting) differs() (now string, differs bool) {
	data, err := os.ReadFile(s.file())
	now = strings.TrimSpace(string(data))
	return now, err == nil && now != s.value
}

func writeSettings(all []setting) error {
	for _, s := range all {
		if err := s.write(); err != nil {
			return err
		}
	}
	return nil
}

// writeSysctl sets one value of /proc/sys in the calling thread's namespace.
func writeSysctl(value string, path ...string) error { return setting{value, path}.write() }

func forwardingSetting(device string) setting {
	return setting{"1", []string{"net/ipv4/conf", device, "forwarding"}}
}

// podLinkSettings are those of the host's end of a pod's link. Packets from the pod
// go on to other machines: only this interface forwards IPv4, and the host's own
// setting is left alone.
func podLinkSettings(name string, v6 bool) []setting {
	return append(linkIPv6Settings(name, v6), forwardingSetting(name))
}

// tunnelSettings are those of a device to other hosts, but for IPv6.
func tunnelSettings(name string) []setting {
	return []setting{forwardingSetting(name), {looseRPFilter, []string{"net/ipv4/conf", name, "rp_filter"}}}
}

// linkIPv6Settings switch IPv6 on or off on a link of the host's that is ours. The
// link gets no address of its own, and believes no router behind it.
func linkIPv6Settings(name string, on bool) []setting {
	of := func(value, what string) setting { return setting{value, []string{"net/ipv6/conf", name, what}} }
	if !on {
		return []setting{of("1", "disable_ipv6")}
	}
	return []setting{of(addrGenNone, "addr_gen_mode"), of("0", "accept_ra"), of("0", "disable_ipv6")}
}
