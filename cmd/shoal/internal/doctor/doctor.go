//go:build linux

// Package doctor checks, in a fixed order, what a host needs to run shoal.
//
// What always holds: a check changes nothing that stays, and takes seconds at
// most; each finding is one line, and one that is not well names the command
// that fixes it. Nothing needs a daemon; where one runs, it is asked too. What
// is measured (measure.go) is kept apart from what is made of it (judge.go),
// which is pure.
//
// Called by `shoal doctor` only.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	v1 "shoal/api/control/v1"
	"shoal/cmd/shoal/internal/daemon"
)

// Result of one check.
type Result string

// The results there are, and what they mean for the host.
const (
	OK   Result = "ok"
	Warn Result = "warn" // works, but not as well or not for long
	Fail Result = "fail" // shoal does not work
	Skip Result = "skip" // could not be looked at, or does not apply
)

// Finding is what one check found.
type Finding struct {
	Check   string `json:"check"`
	Result  Result `json:"result"`
	Summary string `json:"summary"`
	// Fix is the command that mends it.
	Fix string `json:"fix,omitempty"`
}

// Options say which host is looked at.
type Options struct {
	// Config is how the daemon last ran here, or would run.
	Config daemon.Config
	// DaemonPID is the running daemon's, 0 when none runs.
	DaemonPID int
	// Status asks the running daemon; nil when none runs.
	Status func(context.Context) (*v1.Status, error)
}

// checkTimeout bounds one check.
const checkTimeout = 10 * time.Second

// check looks at one thing.
type check struct {
	name string
	look func(context.Context, *host) Finding
}

// checks in order: what later ones need comes first.
func checks() []check {
	return []check{
		{"root", lookRoot},
		{"kernel", lookKernel},
		{"kernel features", lookFeatures},
		{"cgroups", lookCgroups},
		{"bpffs", lookBPFFS},
		{"overlayfs", module("overlay", Fail, "images cannot be unpacked in layers")},
		{"vxlan", module("vxlan", Warn, "pods of hosts that share no link cannot reach each other")},
		{"containerd", lookContainerd},
		{"runc", lookRunc},
		{"forwarding", lookForwarding},
		{"IPv6", lookIPv6},
		{"CNI plugins", lookCNI},
		{"port API", port("tcp", apiPort)},
		{"port agent", port("tcp", agentPort)},
		{"port gossip", port("tcp", gossipPort)},
		{"port gossip (udp)", port("udp", gossipPort)},
		{"port records", port("tcp", recordsPort)},
		{"disk space", lookDisk},
		{"disk latency", lookFsync},
		{"memory", lookMemory},
		{"clock", lookClock},
		{"own name", lookName},
		{"MTU", lookMTU},
		{"daemon", lookDaemon},
		{"clock of peers", lookSkew},
		{"path to peers", lookPeers},
	}
}

// Run looks at everything and reports each finding as it is made.
func Run(ctx context.Context, o Options, report func(Finding)) []Finding {
	h := &host{Options: o}
	var all []Finding
	for _, c := range checks() {
		one, cancel := context.WithTimeout(ctx, checkTimeout)
		f := c.look(one, h)
		cancel()
		f.Check = c.name
		all = append(all, f)
		report(f)
		if ctx.Err() != nil {
			break
		}
	}
	return all
}

// Print writes a finding as people read it.
func Print(w io.Writer, f Finding) {
	_, _ = fmt.Fprintf(w, "%-5s %-18s %s\n", f.Result, f.Check, f.Summary)
	if f.Fix != "" && f.Result != OK {
		_, _ = fmt.Fprintf(w, "%-24s fix: %s\n", "", f.Fix)
	}
}

// PrintJSON writes all findings as one document.
func PrintJSON(w io.Writer, all []Finding) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(map[string]any{"findings": all})
}

// Sum counts the findings and says so; failed is how many failed.
func Sum(all []Finding) (text string, failed int) {
	n := map[Result]int{}
	for _, f := range all {
		n[f.Result]++
	}
	return fmt.Sprintf("%d ok, %d warnings, %d failed, %d skipped", n[OK], n[Warn], n[Fail], n[Skip]), n[Fail]
}

func ok(format string, args ...any) Finding {
	return Finding{Result: OK, Summary: fmt.Sprintf(format, args...)}
}

func skip(format string, args ...any) Finding {
	return Finding{Result: Skip, Summary: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{Result: Warn, Fix: fix, Summary: fmt.Sprintf(format, args...)}
}

func fail(fix, format string, args ...any) Finding {
	return Finding{Result: Fail, Fix: fix, Summary: fmt.Sprintf(format, args...)}
}
