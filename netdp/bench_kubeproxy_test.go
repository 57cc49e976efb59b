package netdp

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// What kube-proxy 1.37 has in the kernel for services, in its two modes: the same
// chains, rules and maps, for the features that the services here have. Not
// written are comments, which it drops above 1,000 endpoints, and what counts or
// refuses node ports at loopback addresses.

const (
	loadTimeout     = 5 * time.Minute
	masqueradeMark  = "0x4000"
	benchServiceIPs = "10.0.0.0/16"
	benchPodIPs     = "10.64.0.0/10"
)

// load hands rules to a tool within a host's namespace.
func (l *lab) load(host namespace, rules string, tool string, args ...string) {
	l.t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		l.t.Fatalf("find %s to compare with: %v; `make deps-check` installs it", tool, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	l.must(host.do(func() error {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %.1000s", tool, err, out)
		}
		return nil
	}))
}

func (l *lab) loadIPTables(host namespace, rules string) {
	l.t.Helper()
	l.load(host, rules, "iptables-nft-restore", "--noflush", "--counters")
}

func (l *lab) loadNFT(host namespace, rules string) {
	l.t.Helper()
	l.load(host, rules, "nft", "-f", "-")
}

const iptablesFilter = `*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark ` + masqueradeMark + `/` + masqueradeMark + ` -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`

// iptablesRules is input for iptables-restore: in KUBE-SERVICES one rule for each
// service, a KUBE-SVC chain for each service and a KUBE-SEP chain for each
// endpoint, chosen by `statistic`.
func iptablesRules(services []Service) string {
	var t natTable
	for _, name := range natChains {
		t.chain("%s", name)
	}
	t.rule("PREROUTING -j KUBE-SERVICES")
	t.rule("OUTPUT -j KUBE-SERVICES")
	t.rule("POSTROUTING -j KUBE-POSTROUTING")
	t.shared(services)
	for i, s := range services {
		t.service(i, s)
	}
	return iptablesFilter + t.String()
}

// iptablesChange is what kube-proxy writes when only the endpoints of services[i]
// have changed: its chains, and those that all services share.
func iptablesChange(services []Service, i int) string {
	var t natTable
	for _, name := range natChains {
		t.chain("%s", name)
	}
	t.shared(services)
	t.service(i, services[i])
	return t.String()
}

var natChains = []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"}

// natTable collects chains, which are emptied when they exist, and rules.
type natTable struct{ chains, rules strings.Builder }

func (t *natTable) chain(format string, args ...any) string {
	name := fmt.Sprintf(format, args...)
	fmt.Fprintf(&t.chains, ":%s - [0:0]\n", name)
	return name
}

func (t *natTable) rule(format string, args ...any) {
	fmt.Fprintf(&t.rules, "-A "+format+"\n", args...)
}

func (t *natTable) String() string {
	return "*nat\n" + t.chains.String() + t.rules.String() + "COMMIT\n"
}

// shared writes natChains.
func (t *natTable) shared(services []Service) {
	t.rule("KUBE-POSTROUTING -m mark ! --mark %s/%s -j RETURN", masqueradeMark, masqueradeMark)
	t.rule("KUBE-POSTROUTING -j MARK --xor-mark %s", masqueradeMark)
	t.rule("KUBE-POSTROUTING -j MASQUERADE --random-fully")
	t.rule("KUBE-MARK-MASQ -j MARK --or-mark %s", masqueradeMark)
	for i, s := range services {
		for _, f := range s.Frontends {
			if f.nodePort() {
				t.rule("KUBE-NODEPORTS %s --dport %d -j %s", matchProto(s), f.Port, extChain(i))
			} else {
				t.rule("KUBE-SERVICES %s -d %s/32 --dport %d -j %s", matchProto(s), f.Addr, f.Port, svcChain(i))
			}
		}
	}
	t.rule("KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
}

// service writes the chains of one.
func (t *natTable) service(i int, s Service) {
	svc, to := t.chain("%s", svcChain(i)), matchProto(s)
	for _, f := range s.Frontends {
		if f.nodePort() {
			ext := t.chain("%s", extChain(i))
			t.rule("%s -j KUBE-MARK-MASQ", ext)
			t.rule("%s -j %s", ext, svc)
		} else {
			t.rule("%s %s -d %s/32 --dport %d ! -s %s -j KUBE-MARK-MASQ", svc, to, f.Addr, f.Port, benchPodIPs)
		}
	}
	for j, e := range s.Backends {
		sep, chance := t.chain("KUBE-SEP-%011d%05d", i, j), ""
		if left := len(s.Backends) - j; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		t.rule("%s %s-j %s", svc, chance, sep)
		t.rule("%s -s %s/32 -j KUBE-MARK-MASQ", sep, e.Addr.Addr())
		t.rule("%s %s -j DNAT --to-destination %s", sep, to, e.Addr)
	}
}

func svcChain(i int) string { return fmt.Sprintf("KUBE-SVC-%016d", i) }
func extChain(i int) string { return fmt.Sprintf("KUBE-EXT-%016d", i) }

func matchProto(s Service) string {
	proto := strings.ToLower(s.Proto.String())
	return fmt.Sprintf("-m %s -p %s", proto, proto)
}

// nftChains are the chains that hang in the kernel, and what they go through for
// each new connection.
const nftChains = `
chain cluster-ips-check { ip daddr @cluster-ips reject
	ip daddr { ` + benchServiceIPs + ` } drop
}
chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips
}
chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services
}
chain services { ip daddr @cluster-ips ip saddr != ` + benchPodIPs + ` mark set mark or ` + masqueradeMark + `
	ip daddr . meta l4proto . th dport vmap @service-ips
	ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain masquerading { mark and ` + masqueradeMark + ` != 0 mark set mark xor ` + masqueradeMark + ` masquerade fully-random
	ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
}
chain filter-prerouting-pre-dnat { type filter hook prerouting priority -110
	ct state new jump firewall-check
}
chain filter-output-pre-dnat { type filter hook output priority -110
	ct state new jump firewall-check
}
chain filter-forward { type filter hook forward priority 0
	ct state new jump service-endpoints-check
	ct state new jump cluster-ips-check
}
chain filter-input { type filter hook input priority 0
	ct state new jump nodeport-endpoints-check
	ct state new jump service-endpoints-check
}
chain filter-output { type filter hook output priority 0
	ct state new jump service-endpoints-check
	ct state new jump cluster-ips-check
}
chain nat-prerouting { type nat hook prerouting priority -100
	jump services
}
chain nat-output { type nat hook output priority -100
	jump services
}
chain nat-postrouting { type nat hook postrouting priority 100
	jump masquerading
}
`

// nftRules is input for nft -f: verdict maps from addresses and ports to a chain
// for each service, which chooses among its endpoints by a map.
func nftRules(services []Service) string {
	const destination, port = "ipv4_addr . inet_proto . inet_service", "inet_proto . inet_service"
	var chains strings.Builder
	elements := map[string][]string{"nodeport-ips": {labHostIP}}
	add := func(name, format string, args ...any) {
		elements[name] = append(elements[name], fmt.Sprintf(format, args...))
	}
	for i, s := range services {
		proto := strings.ToLower(s.Proto.String())
		fmt.Fprintf(&chains, "chain service-%d { meta l4proto %s dnat %s\n}\n", i, proto, nftChoice(s.Backends))
		for _, f := range s.Frontends {
			if f.nodePort() {
				fmt.Fprintf(&chains, "chain external-%d { mark set mark or %s\n goto service-%d\n}\n", i, masqueradeMark, i)
				add("service-nodeports", "%s . %d : goto external-%d", proto, f.Port, i)
				continue
			}
			add("cluster-ips", "%s", f.Addr)
			add("service-ips", "%s . %s . %d : goto service-%d", f.Addr, proto, f.Port, i)
		}
		for _, e := range s.Backends {
			add("hairpin-connections", "%s . %s . %s . %d", e.Addr.Addr(), e.Addr.Addr(), proto, e.Addr.Port())
		}
	}
	var sets strings.Builder
	for _, set := range [][3]string{
		{"set", "cluster-ips", "ipv4_addr"}, {"set", "nodeport-ips", "ipv4_addr"},
		{"set", "hairpin-connections", "ipv4_addr . " + destination},
		{"map", "firewall-ips", destination + " : verdict"}, {"map", "no-endpoint-services", destination + " : verdict"},
		{"map", "no-endpoint-nodeports", port + " : verdict"},
		{"map", "service-ips", destination + " : verdict"}, {"map", "service-nodeports", port + " : verdict"},
	} {
		fmt.Fprintf(&sets, "%s %s { type %s\n", set[0], set[1], set[2])
		if e := elements[set[1]]; len(e) > 0 {
			fmt.Fprintf(&sets, "elements = { %s }\n", strings.Join(e, ", "))
		}
		sets.WriteString("}\n")
	}
	return "table ip kube-proxy {\n" + chains.String() + sets.String() + nftChains + "}\n"
}

// nftChange is what kube-proxy writes when only the endpoints of services[i] have
// changed.
func nftChange(services []Service, i int) string {
	s := services[i]
	return fmt.Sprintf("flush chain ip kube-proxy service-%d\nadd rule ip kube-proxy service-%d meta l4proto %s dnat %s\n",
		i, i, strings.ToLower(s.Proto.String()), nftChoice(s.Backends))
}

func nftChoice(backends []Backend) string {
	if len(backends) == 1 {
		return "to " + backends[0].Addr.String()
	}
	choices := make([]string, len(backends))
	for i, b := range backends {
		choices[i] = fmt.Sprintf("%d : %s", i, nftAddrPort(b.Addr))
	}
	return fmt.Sprintf("ip addr . port to numgen random mod %d map { %s }", len(backends), strings.Join(choices, ", "))
}

func nftAddrPort(a netip.AddrPort) string { return fmt.Sprintf("%s . %d", a.Addr(), a.Port()) }
