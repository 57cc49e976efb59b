package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"shoal/test/harness"
)

// packageFigure is a metric of a Go benchmark that is a figure.
type packageFigure struct {
	benchmark, metric, name, unit string
	// per is how many of the metric's unit make one of the figure's; 0 is 1.
	per float64
	to  target
	// reference has the names of metrics in braces where their values are put.
	reference string
}

// What the ways of others took in the same run is part of the reference.
const beside = "iptables {iptables-ratio}, nft {nft-ratio}"

var datapathFigures = []packageFigure{
	{"BenchmarkServices/services=10/connect", "ratio", "connect p50, service / direct, 10 services", "x", 0, atMost(1.2), beside},
	{"BenchmarkServices/services=10000/connect", "ratio", "connect p50, service / direct, 10,000", "x", 0, atMost(1.2), beside},
	{"BenchmarkServices/services=10000/connect", "iptables/shoal", "connect p50, iptables / shoal, 10,000", "x", 0, atLeast(3), ""},
	{"BenchmarkServices/services=10000/connect", "shoal/nft", "connect p50, shoal / nft map, 10,000", "x", 0, atMost(1), ""},
	{"BenchmarkServices/services=10000/nodeport", "ratio", "NodePort requests per second / direct, 10,000", "x", 0, atLeast(0.9), beside},
	{"BenchmarkServices/services=10000/udp", "ratio", "UDP p50, service / direct, one socket", "x", 0, atMost(1.2), beside},
	{"BenchmarkServices/services=10000/udp-socket", "ratio", "UDP p50, service / direct, a socket each", "x", 0, atMost(1.2), beside},
	{"BenchmarkServices/services=10000/change", "shoal-µs", "one endpoint change, 10,000 services, p50", "µs", 0, stated, "iptables {iptables-µs}, nft {nft-µs}"},
	{"BenchmarkEndpointChange", "ns/op", "one endpoint change in the kernel's maps", "µs", 1000, atMost(10), ""},
	{"BenchmarkLoad", "ns/op", "10,000 services of 10 endpoints loaded cold", "ms", 1e6, atMost(500), ""},
	{"BenchmarkLoad", "map-MiB", "memory of all maps then", "MiB", 0, atMost(122), ""},
	{"BenchmarkPolicy", "ratio", "round trip p50, policy of 1,000 rules / none", "x", 0, atMost(1.05), ""},
}

var hostFigures = []packageFigure{
	{"BenchmarkHosts/vxlan/bulk", "ratio", "pods by VXLAN / plain VXLAN of hosts: TCP", "x", 0, atLeast(0.9), "plain pods: {pods-ratio}"},
	{"BenchmarkHosts/vxlan/roundtrip", "ratio", "pods by VXLAN / plain VXLAN of hosts: p50", "x", 0, atMost(1.15), "plain pods: {pods-ratio}"},
	{"BenchmarkHosts/wireguard/bulk", "ratio", "pods by WireGuard, encrypted / plain VXLAN of hosts: TCP", "x", 0, stated, "plain pods: {pods-ratio}"},
	{"BenchmarkHosts/wireguard/roundtrip", "ratio", "pods by WireGuard, encrypted / plain VXLAN of hosts: p50", "x", 0, stated, "plain pods: {pods-ratio}"},
	{"BenchmarkHosts/direct/bulk", "ratio", "pods on one link / hosts: TCP", "x", 0, stated, "plain pods: {pods-ratio}"},
	{"BenchmarkHosts/direct/roundtrip", "ratio", "pods on one link / hosts: p50", "x", 0, stated, "plain pods: {pods-ratio}"},
}

var switchFigures = []packageFigure{
	{"BenchmarkSwitchover/restart", "gap-ms", "restart: longest gap of new connections", "ms", 0, atMost(50), "{quiet-ms} without; broken {broken}, failed {failed}, datagrams lost {lost}"},
	{"BenchmarkSwitchover/upgrade", "gap-ms", "upgrade, all layouts: longest gap of new ones", "ms", 0, atMost(50), "{quiet-ms} without; broken {broken}, failed {failed}, datagrams lost {lost}"},
	{"BenchmarkSwitchover/upgrade", "broken", "upgrade, all layouts: open connections broken", "", 0, atMost(0), ""},
}

// restarts reports what a restart and an upgrade of the datapath do to traffic.
func restarts(ctx context.Context, _ *bench) error {
	return packageFigures(ctx, switchFigures, "^BenchmarkSwitchover$", "./netdp")
}

var dnsFigures = []packageFigure{
	{"BenchmarkServer", "answers/core-s", "DNS answers per second of one core, 10,000 services", "/s", 0, atLeast(30_000), ""},
	{"BenchmarkServer", "p99-ms", "DNS answer at 30,000 a second, p99", "ms", 0, atMost(2), ""},
}

// names reports the DNS server's figures, in a process of its own with one core.
func names(ctx context.Context, _ *bench) error {
	return packageFigures(ctx, dnsFigures, "^BenchmarkServer$", "./netdp/dns")
}

var storeFigures = []packageFigure{
	{"BenchmarkWrite/writers=64", "writes/s", "store: synced writes, 64 writers", "/s", 0, atLeast(4000), "bare badger: 5,300"},
	{"BenchmarkMerge", "records/s", "store: records merged from a peer", "/s", 0, atLeast(20_000), ""},
	{"BenchmarkFleet", "anonymous-MB", "store of 165,000 records: anonymous memory", "MB", 0, atMost(200), ""},
	{"BenchmarkFleet", "restart-s", "store of 165,000 records: opened again", "s", 0, atMost(10), ""},
	{"BenchmarkFleet", "read-µs", "store of 165,000 records: point read", "µs", 0, atMost(50), ""},
}

var treeFigures = []packageFigure{
	{"BenchmarkFleetLoss", "p99-ms", "5,000 peers, 25% loss: a write at all, p99", "ms", 0, atMost(1500), ""},
	{"BenchmarkFleetSteady", "copies/peer", "5,000 peers, no loss: payload copies per peer", "x", 0, atMost(1.2), ""},
}

var setFigures = []packageFigure{
	{"BenchmarkLargeSets", "wire-KB", "165,000 records differing in 10: on the wire", "KB", 0, atMost(64), ""},
}

// gossipAlone reports those of the broadcast tree, on simulated peers, and of
// set reconciliation.
func gossipAlone(ctx context.Context, _ *bench) error {
	return errors.Join(
		packageFigures(ctx, treeFigures, "^BenchmarkFleet(Loss|Steady)$", "./gossip/plumtree"),
		packageFigures(ctx, setFigures, "^BenchmarkLargeSets$", "./gossip/reconcile"),
	)
}

// datapath reports the figures of the datapath on one host, from its Go benchmarks.
func datapath(ctx context.Context, _ *bench) error {
	return packageFigures(ctx, datapathFigures, "^(BenchmarkServices|BenchmarkEndpointChange|BenchmarkLoad|BenchmarkPolicy)$", "./netdp")
}

// betweenHosts reports those of pods on two hosts.
func betweenHosts(ctx context.Context, _ *bench) error {
	return packageFigures(ctx, hostFigures, "^BenchmarkHosts$", "./netdp")
}

// storeAlone reports those of the store.
func storeAlone(ctx context.Context, _ *bench) error {
	return packageFigures(ctx, storeFigures, "^(BenchmarkWrite|BenchmarkMerge|BenchmarkFleet)$", "./store")
}

func packageFigures(ctx context.Context, figures []packageFigure, pattern, pkg string) error {
	results, err := runGoBenchmarks(ctx, pattern, pkg)
	if err != nil {
		return err
	}
	for _, figure := range figures {
		value, ok := results[figure.benchmark][figure.metric]
		if !ok {
			err = fmt.Errorf("%s printed no %s", figure.benchmark, figure.metric)
			continue
		}
		report(figure.name, value/cmp.Or(figure.per, 1), figure.unit, figure.to, figure.comparison(results))
	}
	return err
}

var metricInBraces = regexp.MustCompile(`\{[^}]+\}`)

// comparison is the reference with values for its metrics, and the load.
func (f packageFigure) comparison(results map[string]map[string]float64) string {
	text := metricInBraces.ReplaceAllStringFunc(f.reference, func(name string) string {
		value, ok := results[f.benchmark][strings.Trim(name, "{}")]
		if !ok {
			return "not measured"
		}
		return strconv.FormatFloat(value, 'f', decimals(value), 64)
	})
	return strings.TrimPrefix(text+"; "+load(), "; ")
}

// goBenchmarks prints the Go benchmarks of the packages as they are.
func goBenchmarks(ctx context.Context, _ *bench) error {
	for _, packages := range []string{"./store/...", "./sched/...", "./agent/..."} {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", packages)
		root, err := harness.Root()
		if err != nil {
			return err
		}
		cmd.Dir = root
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "Benchmark") {
				fmt.Println(lines.Text())
			}
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("benchmarks of %s: %w", packages, err)
		}
	}
	return nil
}

// runGoBenchmarks returns the metrics of each benchmark by name, without the
// processor count.
func runGoBenchmarks(ctx context.Context, pattern, pkg string) (map[string]map[string]float64, error) {
	root, err := harness.Root()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, pkg)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, out)
	}
	results := map[string]map[string]float64{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if dash := strings.LastIndexByte(name, '-'); dash > 0 {
			name = name[:dash]
		}
		metrics := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				metrics[fields[i+1]] = value
			}
		}
		results[name] = metrics
	}
	return results, nil
}
