package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"shoal/test/harness"
)

// datapathFigures maps the benchmarks of package netdp, and the metric of each,
// to figures.
var datapathFigures = []struct {
	benchmark, metric, name, unit string
	to                            target
	reference                     string
}{
	{"BenchmarkConnect/services=10", "ratio", "connect p50, service / direct, 10 services", "x", atMost(1.25), "1.5 (iptables)"},
	{"BenchmarkConnect/services=10000", "ratio", "connect p50, service / direct, 10,000", "x", atMost(1.25), "4.6–7.6 (iptables)"},
	{"BenchmarkEndpointChange", "ns/op", "one endpoint change in the kernel's maps", "µs", atMost(10), "834,000 (iptables)"},
}

// datapath reports the figures of the datapath, from its Go benchmarks.
func datapath(ctx context.Context, _ *bench) error {
	results, err := runGoBenchmarks(ctx, "^(BenchmarkConnect|BenchmarkEndpointChange)$", "./netdp")
	if err != nil {
		return err
	}
	for _, figure := range datapathFigures {
		value, ok := results[figure.benchmark][figure.metric]
		if !ok {
			err = fmt.Errorf("%s printed no %s", figure.benchmark, figure.metric)
			continue
		}
		if figure.metric == "ns/op" {
			value /= 1000
		}
		report(figure.name, value, figure.unit, figure.to, figure.reference)
	}
	return err
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
