package runner

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

func hostname(pod *v1.Pod) string {
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.HostnameOverride != nil {
		name = *pod.Spec.HostnameOverride
	}
	const kernelMax = 63 // HOST_NAME_MAX less the end
	if len(name) > kernelMax {
		name = strings.TrimRight(name[:kernelMax], "-.")
	}
	return name
}

// writeHosts makes the pod's /etc/hosts, /etc/hostname and resolv.conf.
func (w *worker) writeHosts(pod *v1.Pod) error {
	if pod.Spec.HostNetwork {
		return nil
	}
	dir := w.podDir(pod)
	resolv, err := resolvConf(pod)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hosts":       hostsFile(pod, w.box.ips),
		"hostname":    hostname(pod) + "\n",
		"resolv.conf": resolv,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func hostsFile(pod *v1.Pod, ips []netip.Addr) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	for _, ip := range ips {
		b.WriteString(ip.String() + "\t" + hostname(pod) + "\n")
	}
	for _, a := range pod.Spec.HostAliases {
		b.WriteString(a.IP + "\t" + strings.Join(a.Hostnames, "\t") + "\n")
	}
	return b.String()
}

// resolvConf gives the host's resolver settings, or the pod's own.
func resolvConf(pod *v1.Pod) (string, error) {
	text := ""
	if pod.Spec.DNSPolicy != v1.DNSNone {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's resolver settings: %w", err)
		}
		text = string(data)
	}
	c := pod.Spec.DNSConfig
	if c == nil {
		return text, nil
	}
	for _, n := range c.Nameservers {
		text += "nameserver " + n + "\n"
	}
	if len(c.Searches) > 0 {
		text += "search " + strings.Join(c.Searches, " ") + "\n"
	}
	for _, o := range c.Options {
		text += "options " + o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		text += "\n"
	}
	return text, nil
}
