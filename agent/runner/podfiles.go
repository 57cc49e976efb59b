package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletutil "k8s.io/kubernetes/pkg/kubelet/util"
)

// The kubelet's own files of the pod, and where containers see them.
const (
	hostsPath    = "/etc/hosts"
	hostnamePath = "/etc/hostname"
	resolvPath   = "/etc/resolv.conf"

	// The first lines of /etc/hosts, as the kubelet's, so that a person sees
	// who wrote it and whose lines follow.
	hostsHeader     = "# Kubernetes-managed hosts file.\n"
	hostsHeaderHost = "# Kubernetes-managed hosts file (host network).\n"
)

// names give the pod's host name and its domain; without spec.subdomain the
// domain is empty.
func names(pod *v1.Pod, clusterDomain string) (name, domain string) {
	if o := pod.Spec.HostnameOverride; o != nil {
		return cutName(*o), ""
	}
	name = pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + clusterDomain
	}
	return cutName(name), domain
}

// cutName shortens a name to what the kernel takes, as the kubelet does.
func cutName(name string) string {
	const kernelMax = 63 // HOST_NAME_MAX less the end
	if len(name) <= kernelMax {
		return name
	}
	return strings.TrimRight(name[:kernelMax], "-.")
}

// nodename is the name `hostname` prints in the pod. It fails only for a pod
// that asks for its full name there and whose full name is too long.
func (r *Runner) nodename(pod *v1.Pod) (string, error) {
	if pod.Spec.HostNetwork {
		return os.Hostname()
	}
	name, domain := names(pod, r.ClusterDomain)
	return kubeletutil.GetNodenameForKernel(name, domain, pod.Spec.SetHostnameAsFQDN)
}

// writeHosts makes the pod's /etc/hosts, /etc/hostname and resolv.conf. A
// file that is right already is left alone: after a restart of the daemon
// somebody in the pod may be reading it.
func (w *worker) writeHosts(ctx context.Context, pod *v1.Pod) error {
	nodename, err := w.r.nodename(pod)
	if err != nil {
		return err
	}
	hosts, err := w.hostsFile(pod)
	if err != nil {
		return err
	}
	dns, err := w.r.podDNS(ctx, pod)
	if err != nil {
		return err
	}
	for at, text := range map[string]string{hostsPath: hosts, hostnamePath: nodename + "\n", resolvPath: resolvText(dns)} {
		path := filepath.Join(w.podDir(pod), filepath.Base(at))
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(text)) {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s of the pod: %w", at, err)
		}
	}
	return nil
}

// OwnFiles are the files and directories of a pod that containers can write to and
// that are no volume's: what they put there is on this host's disk too.
func (r *Runner) OwnFiles(uid types.UID) []string {
	dir := filepath.Join(r.DataDir, "pods", string(uid))
	return []string{
		filepath.Join(dir, filepath.Base(hostsPath)), filepath.Join(dir, filepath.Base(hostnamePath)),
		filepath.Join(dir, filepath.Base(resolvPath)), filepath.Join(dir, terminationDir),
	}
}

func (w *worker) hostsFile(pod *v1.Pod) (string, error) {
	if !pod.Spec.HostNetwork {
		name, domain := names(pod, w.r.ClusterDomain)
		return managedHosts(w.box.ips, name, domain, pod.Spec.HostAliases), nil
	}
	host, err := os.ReadFile(hostsPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the host's names: %w", err)
	}
	return hostsHeaderHost + string(host) + aliasLines(pod.Spec.HostAliases), nil
}

// managedHosts is what the kubelet writes, to the byte
// (pkg/kubelet/kubelet_pods.go, managedHostsFileContent).
func managedHosts(ips []netip.Addr, name, domain string, aliases []v1.HostAlias) string {
	var b strings.Builder
	b.WriteString(hostsHeader +
		"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	if domain != "" {
		name = name + "." + domain + "\t" + name
	}
	for _, ip := range ips {
		b.WriteString(ip.String() + "\t" + name + "\n")
	}
	b.WriteString(aliasLines(aliases))
	return b.String()
}

func aliasLines(aliases []v1.HostAlias) string {
	if len(aliases) == 0 {
		return ""
	}
	text := "\n# Entries added by HostAliases.\n"
	for _, a := range aliases {
		text += a.IP + "\t" + strings.Join(a.Hostnames, "\t") + "\n"
	}
	return text
}

// resolvText is resolv.conf in the order in which container runtimes write it.
func resolvText(dns *runtimeapi.DNSConfig) string {
	var b strings.Builder
	if len(dns.Searches) > 0 {
		b.WriteString("search " + strings.Join(dns.Searches, " ") + "\n")
	}
	for _, s := range dns.Servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(dns.Options) > 0 {
		// Upstream keeps them in a map; sorted, the file is the same each time.
		b.WriteString("options " + strings.Join(slices.Sorted(slices.Values(dns.Options)), " ") + "\n")
	}
	return b.String()
}
