package runner

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 62) + ".b"
	for what, c := range map[string]struct {
		change               func(*v1.PodSpec)
		name, domain, kernel string // kernel "" wants an error
	}{
		"plain":     {func(*v1.PodSpec) {}, "p", "", "p"},
		"hostname":  {func(s *v1.PodSpec) { s.Hostname = "h" }, "h", "", "h"},
		"subdomain": {func(s *v1.PodSpec) { s.Hostname, s.Subdomain = "h", "sub" }, "h", "sub.test.svc.cluster.local", "h"},
		"as FQDN": {func(s *v1.PodSpec) { s.Subdomain, s.SetHostnameAsFQDN = "sub", ptr(true) },
			"p", "sub.test.svc.cluster.local", "p.sub.test.svc.cluster.local"},
		"FQDN without subdomain": {func(s *v1.PodSpec) { s.SetHostnameAsFQDN = ptr(true) }, "p", "", "p"},
		"FQDN of 65": {func(s *v1.PodSpec) {
			s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = strings.Repeat("h", 34), "subd", ptr(true)
		}, strings.Repeat("h", 34), "subd.test.svc.cluster.local", strings.Repeat("h", 34) + ".subd.test.svc.cluster.local"},
		"FQDN too long": {func(s *v1.PodSpec) {
			s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = strings.Repeat("h", 40), "subd", ptr(true)
		}, strings.Repeat("h", 40), "subd.test.svc.cluster.local", ""},
		"override": {func(s *v1.PodSpec) {
			s.Hostname, s.Subdomain, s.HostnameOverride = "h", "sub", ptr("o.example.com")
		}, "o.example.com", "", "o.example.com"},
		"cut": {func(s *v1.PodSpec) { s.HostnameOverride = &long }, strings.Repeat("a", 62), "", strings.Repeat("a", 62)},
	} {
		r := &Runner{Options: Options{ClusterDomain: "cluster.local"}}
		p := pod("p", "")
		c.change(&p.Spec)
		name, domain := names(p, r.ClusterDomain)
		kernel, err := r.nodename(p)
		if name != c.name || domain != c.domain || kernel != c.kernel || (err == nil) == (c.kernel == "") {
			t.Errorf("%s: %q, %q, %q, %v", what, name, domain, kernel, err)
		}
	}
}

func TestHostsFile(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}
	aliases := []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}, {IP: "1.2.3.5", Hostnames: []string{"c"}}}
	// The text is that of upstream's TestManagedHostsFileContent.
	want := `# Kubernetes-managed hosts file.
127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
fe00::0	ip6-mcastprefix
fe00::1	ip6-allnodes
fe00::2	ip6-allrouters
10.1.2.3	h.sub.ns.svc.cluster.local	h
fd00::3	h.sub.ns.svc.cluster.local	h

# Entries added by HostAliases.
1.2.3.4	a	b
1.2.3.5	c
`
	if got := managedHosts(ips, "h", "sub.ns.svc.cluster.local", aliases); got != want {
		t.Errorf("hosts:\n%s\nwant:\n%s", got, want)
	}
}

func TestPodDNS(t *testing.T) {
	sink := newRecord()
	r := &Runner{Options: Options{ClusterDomain: "cluster.local", ClusterDNS: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, Sink: sink}}
	p := pod("p", "")
	p.Spec.DNSPolicy = v1.DNSClusterFirst
	config := func() string {
		t.Helper()
		dns, err := r.podDNS(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return resolvText(dns)
	}
	if got := config(); !strings.HasPrefix(got, "search test.svc.cluster.local svc.cluster.local cluster.local") || !strings.HasSuffix(got, "\nnameserver 10.0.0.10\noptions ndots:5\n") {
		t.Errorf("ClusterFirst: %q", got)
	}
	p.Spec.HostNetwork = true
	host, _ := os.ReadFile(resolvPath)
	if got := config(); strings.Contains(got, "10.0.0.10") || (strings.Contains(string(host), "nameserver ") && !strings.Contains(got, "nameserver ")) {
		t.Errorf("ClusterFirst with hostNetwork: %q", got)
	}
	p.Spec.DNSPolicy = v1.DNSClusterFirstWithHostNet
	if got := config(); !strings.Contains(got, "nameserver 10.0.0.10\n") {
		t.Errorf("ClusterFirstWithHostNet: %q", got)
	}
	p.Spec.DNSPolicy = v1.DNSNone
	p.Spec.DNSConfig = &v1.PodDNSConfig{
		Nameservers: []string{"1.1.1.1", "2.2.2.2", "1.1.1.1", "3.3.3.3", "4.4.4.4"}, Searches: []string{"a.example", "b.example"},
		Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "edns0"}},
	}
	if got, want := config(), "search a.example b.example\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\noptions edns0 ndots:2\n"; got != want {
		t.Errorf("None: %q, want %q", got, want)
	}
	if len(sink.events) != 1 || !strings.HasPrefix(sink.events[0], "p DNSConfigForming: Nameserver limits were exceeded") {
		t.Errorf("events: %q", sink.events)
	}
	r.ClusterDNS, p.Spec.DNSPolicy, p.Spec.DNSConfig = nil, v1.DNSClusterFirst, nil
	if got := config(); strings.Contains(got, "cluster.local") || len(sink.events) != 1 {
		t.Errorf("ClusterFirst without a cluster DNS: %q, events %q", got, sink.events)
	}
}

// testNames: what containers see of their names, and a name that is too long.
func (b *bed) testNames(t *testing.T) {
	b = b.with(t)
	p := pod("names", sleeper, func(p *v1.Pod) {
		p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "sub", ptr(true)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	fqdn := "names.sub.test.svc.cluster.local"
	out := b.run(p, "sh", "-c", "hostname; echo $HOSTNAME; cat /etc/hostname /etc/hosts")
	for _, want := range []string{strings.Repeat(fqdn+"\n", 3), b.last(p.UID).PodIP + "\t" + fqdn + "\tnames\n", hostsHeader} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	b.remove(p)
	host := pod("hostnet", sleeper, func(p *v1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"seven"}}}
	})
	b.runner.Set(host)
	b.phase(host, v1.PodRunning)
	if out := b.run(host, "cat", "/etc/hosts"); !strings.HasPrefix(out, hostsHeaderHost) || !strings.Contains(out, "192.0.2.7\tseven\n") {
		t.Errorf("hosts of a pod on the host's network: %q", out)
	}
	b.remove(host)
	long := pod("toolong", sleeper, func(p *v1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = strings.Repeat("x", 60), "sub", ptr(true)
	})
	b.runner.Set(long)
	if e := b.event(long, "FailedCreatePodSandBox"); !strings.Contains(e, "is too long (64 characters is the max") {
		t.Errorf("event: %s", e)
	}
	b.remove(long)
	if _, err := os.Stat(filepath.Join(b.dir, "pods", string(long.UID))); !os.IsNotExist(err) {
		t.Errorf("the refused pod's directory: %v", err)
	}
}
