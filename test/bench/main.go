// Command bench measures shoal's figures on this machine and prints one line
// for each: its name, the value, the unit, what is to be reached, and what
// Kubernetes 1.37 reaches on the same kind of machine (docs/ARCHITECTURE.md
// tells how that was measured).
//
//	bench                 all figures, then the packages' Go benchmarks
//	bench -run 'pod|size' those whose name matches
//
// Each measurement gets a machine of its own from test/harness. Nothing here
// passes or fails by time: a target that is missed is marked, and the exit code
// tells only whether everything could be measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"shoal/test/harness"
)

// measurement produces the figures of one name.
type measurement struct {
	name    string
	measure func(ctx context.Context, b *bench) error
}

// In this order: what needs a fresh daemon comes first.
var measurements = []measurement{
	{"size", binarySize},
	{"start", startTimes},
	{"idle", idleCost},
	{"podcost", podCost},
	{"get-pods", getPodsProcess},
	{"pod", podStart},
	{"floor", floor},
	{"deployment", deploymentOfHundred},
	{"api", apiThroughput},
	{"connect", datapath},
	{"hosts", betweenHosts},
	{"switchover", restarts},
	{"dns", names},
	{"store", storeAlone},
	{"gossip", gossipAlone},
	{"cell-idle", idlePeers},
	{"cell-visible", visibility},
	{"cell-sustained", sustained},
	{"cell-access", access},
	{"cell-split", split},
	{"cell-kill", kill},
	{"cell-join", joinFull},
	{"go", goBenchmarks},
}

func main() {
	pattern := flag.String("run", "", "measure only what matches this regular expression")
	flag.Parse()
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -run:", err)
		os.Exit(2)
	}
	os.Exit(harness.Main(func(w *harness.World) int { return run(w, selected) }))
}

func run(w *harness.World, selected *regexp.Regexp) int {
	ctx := context.Background()
	b := &bench{world: w}
	printHeader()
	code := 0
	for _, m := range measurements {
		if !selected.MatchString(m.name) {
			continue
		}
		if err := m.measure(ctx, b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", m.name, err)
			code = 1
		}
	}
	b.close()
	return code
}

// bench holds what measurements share; daemon, containerd and lab are made when
// first asked for.
type bench struct {
	world      *harness.World
	containerd *harness.Containerd
	daemon     *harness.Daemon
	lab        *cell
	floorUp    time.Duration // of containerd alone, once measured
}

// described returns a daemon that is not running, on an own data directory.
func (b *bench) described(ctx context.Context, name string) (*harness.Daemon, error) {
	binary, err := harness.Binary("bin/shoal")
	if err != nil {
		return nil, err
	}
	if b.containerd == nil {
		if b.containerd, err = harness.StartContainerd(ctx, filepath.Join(b.world.Dir, "containerd")); err != nil {
			return nil, err
		}
	}
	daemon := b.world.NewDaemon(binary, b.containerd)
	daemon.Name = name
	daemon.DataDir = filepath.Join(b.world.Dir, "data-"+name)
	return daemon, nil
}

// running returns the shared daemon, with the test image loaded.
func (b *bench) running(ctx context.Context) (*harness.Daemon, error) {
	if b.daemon != nil {
		return b.daemon, nil
	}
	daemon, err := b.described(ctx, "bench")
	if err != nil {
		return nil, err
	}
	if err := daemon.Start(ctx); err != nil {
		return nil, err
	}
	b.daemon = daemon
	archive := filepath.Join(b.world.Dir, "image.tar")
	if err := harness.WriteImage(ctx, archive, benchImage, "", ""); err != nil {
		return nil, err
	}
	return daemon, daemon.Command("image", "load", archive).Run(ctx).Err
}

func (b *bench) close() {
	if b.lab != nil {
		if err := b.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	if b.daemon != nil {
		result := b.daemon.Command("stop", "--pods", "--data-dir", b.daemon.DataDir).Run(context.Background())
		if result.Err != nil {
			fmt.Fprintln(os.Stderr, "bench:", result.Err)
		}
	}
	if b.containerd != nil {
		b.containerd.Stop()
	}
}

// target is a bound and the direction in which it is one.
type target struct {
	bound  float64
	atMost bool
}

func atMost(bound float64) target  { return target{bound, true} }
func atLeast(bound float64) target { return target{bound, false} }

// stated is no bound: the figure is there to be known.
var stated = target{bound: math.NaN()}

func (t target) String() string {
	if math.IsNaN(t.bound) {
		return ""
	}
	sign := "≥"
	if t.atMost {
		sign = "≤"
	}
	return sign + strconv.FormatFloat(t.bound, 'f', -1, 64)
}

func (t target) reached(value float64) bool {
	if t.atMost {
		return value <= t.bound
	}
	return value >= t.bound
}

const lineFormat = "%-48s %10s %-6s %10s  %-7s %s\n"

func printHeader() {
	fmt.Printf(lineFormat, "figure", "value", "unit", "to reach", "", "Kubernetes 1.37")
}

// report prints one figure.
func report(name string, value float64, unit string, to target, reference string) {
	verdict := "reached"
	switch {
	case math.IsNaN(to.bound):
		verdict = ""
	case !to.reached(value):
		verdict = "MISSED"
	}
	fmt.Printf(lineFormat, name, strconv.FormatFloat(value, 'f', decimals(value), 64), unit, to, verdict, reference)
}

// decimals is how many are printed.
func decimals(value float64) int {
	if value < 20 {
		return 2
	}
	return 0
}
