package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resolving is a headless service of pods with names of their own, an alias of a
// name outside, and a pod to ask from.
const resolving = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.test}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host-asker}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
`

// TestDNS asks from pods, as programs in them do.
func TestDNS(t *testing.T) {
	hostResolver(t, "192.0.2.80")
	ns := newNamespace(t)
	apply(t, ns, resolving)
	db := podsReady(t, ns, "app=db", 2)
	for _, name := range []string{"asker", "host-asker"} {
		podWhen(t, ns, name, "runs", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning })
	}
	web, err := client.CoreV1().Services(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	full := ns + ".svc.cluster.local"
	config := kubectl(t, "exec", "--namespace", ns, "asker", "--", "cat", "/etc/resolv.conf")
	for _, want := range []string{"nameserver 10.0.0.10\n", "search " + full + " svc.cluster.local cluster.local", "options ndots:5\n"} {
		if !strings.Contains(config, want) {
			t.Errorf("resolv.conf lacks %q:\n%s", want, config)
		}
	}
	for _, asker := range []string{"asker", "host-asker"} {
		for name, want := range map[string][]string{
			"web." + full:                          {web.Spec.ClusterIP},
			"kubernetes.default.svc.cluster.local": {"10.0.0.1"},
			"db." + full:                           {db[0].Status.PodIP, db[1].Status.PodIP},
			"db-1.db." + full:                      {ipOf(db, "db-1")},
			"outside." + full:                      {"canonical name = www.example.test", "192.0.2.80"},
			"www.example.test":                     {"192.0.2.80"},
			ipOf(db, "db-0"):                       {"db-0.db." + full},
		} {
			eventually(t, asker+" resolves "+name, func() error { return resolves(t, ns, asker, name, want...) })
		}
	}
	eventually(t, "the short name of a service", func() error {
		// The C library's own way through the search list; nobody answers the ping.
		out := runKubectl(t, "", "exec", "--namespace", ns, "asker", "--", "sh", "-c", "ping -c 1 -W 1 web; true").Stdout
		if !strings.Contains(out, "("+web.Spec.ClusterIP+")") {
			return fmt.Errorf("ping says %q", out)
		}
		return nil
	})
	for question, want := range map[string]string{
		"+short web." + full:                                         web.Spec.ClusterIP,
		"+short +tcp +noedns web." + full:                            web.Spec.ClusterIP,
		"+short -x " + ipOf(db, "db-0"):                              "db-0.db." + full + ".",
		"+short SRV _sql._tcp.db-1.db." + full:                       "",
		"+noall +answer SRV _sql._tcp.db." + full:                    "5432 db-1.db." + full + ".",
		"+noall +comments +bufsize=1232 AAAA nobody.nowhere." + full: "NXDOMAIN",
	} {
		if out := dig(t, strings.Fields(question)...); !strings.Contains(out, want) || want == "" && out != "" {
			t.Errorf("dig %s says %q, want %q", question, out, want)
		}
	}
	missing := runKubectl(t, "", "exec", "--namespace", ns, "asker", "--", "nslookup", "nobody."+full)
	if missing.Err == nil || !strings.Contains(missing.Stdout+missing.Stderr, "NXDOMAIN") {
		t.Errorf("a name that is not there: %s%s", missing.Stdout, missing.Stderr)
	}
}

// dig asks the cluster's resolver, from the host.
func dig(t *testing.T, question ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dig", append([]string{"@10.0.0.10", "+timeout=10"}, question...)...).CombinedOutput()
	if err != nil {
		t.Errorf("dig %s: %v: %s", strings.Join(question, " "), err, out)
	}
	return string(out)
}

func ipOf(pods []corev1.Pod, name string) string {
	for _, pod := range pods {
		if pod.Name == name {
			return pod.Status.PodIP
		}
	}
	return ""
}

// resolves has a pod ask for a name and looks for parts of what it is told.
func resolves(t *testing.T, namespace, pod, name string, want ...string) error {
	t.Helper()
	result := runKubectl(t, "", "exec", "--namespace", namespace, pod, "--", "nslookup", name)
	for _, part := range want {
		if part == "" || !strings.Contains(result.Stdout, part) {
			return fmt.Errorf("%q is missing in %s%s", part, result.Stdout, result.Stderr)
		}
	}
	return nil
}

// TestKubeDNS: the service is there for people to look up, at its fixed address,
// and comes back.
func TestKubeDNS(t *testing.T) {
	show := func() string {
		return kubectl(t, "get", "service", "kube-dns", "--namespace", "kube-system", "--output",
			"jsonpath={.spec.clusterIP} {range .spec.ports[*]}{.name}={.port}/{.protocol} {end}")
	}
	const want = "10.0.0.10 dns=53/UDP dns-tcp=53/TCP "
	if got := show(); got != want {
		t.Errorf("kube-dns is %q, want %q", got, want)
	}
	before, err := client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "service", "kube-dns", "--namespace", "kube-system")
	eventually(t, "kube-dns is back", func() error {
		now, err := client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return err
		case err != nil:
			return err
		case now.UID == before.UID:
			return fmt.Errorf("it is the old one")
		}
		return nil
	})
	if got := show(); got != want {
		t.Errorf("kube-dns is %q, want %q", got, want)
	}
	eventually(t, "it answers", func() error {
		addrs, err := (&net.Resolver{PreferGo: true, Dial: dialClusterDNS}).LookupHost(t.Context(), "kubernetes.default.svc.cluster.local")
		if err == nil && (len(addrs) != 1 || addrs[0] != "10.0.0.1") {
			err = fmt.Errorf("it says %v", addrs)
		}
		return err
	})
}

// hostResolver has the host ask a server that knows one address for every name.
func hostResolver(t *testing.T, addr string) {
	t.Helper()
	const at = "127.0.0.1:53"
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		if q := m.Question[0]; q.Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)})
		}
		_ = w.WriteMsg(r)
	})}
	started, done := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const target = "/etc/resolv.conf"
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = server.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// dialClusterDNS reaches the service from a program of the host.
func dialClusterDNS(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, "10.0.0.10:53")
}
