package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	v1 "shoal/api/control/v1"
	"shoal/cmd/shoal/internal/cli"
	"shoal/cmd/shoal/internal/daemon"
	"shoal/cmd/shoal/internal/doctor"
)

// DoctorCmd is `shoal doctor`.
type DoctorCmd struct {
	DataDir string `default:"/var/lib/shoal" placeholder:"DIR" help:"The data directory of the daemon that runs here, or would (default ${default})."`
	Output  string `short:"o" enum:"table,json" default:"table" help:"Output format: ${enum}."`
}

// Help is the detail of `shoal doctor --help`.
func (*DoctorCmd) Help() string {
	return `Checks this host in order: rights, kernel, control groups, containerd, ports, disk,
memory, clock, network, and, where a daemon runs, what it says and whether other
peers can be reached. What is not well comes with the command that fixes it. The
exit code is 1 when a check failed; warnings do not count. Nothing is changed.

Examples:

    sudo shoal doctor
    sudo shoal doctor -o json | jq '.findings[] | select(.result=="fail")'`
}

// Run checks this host.
func (c *DoctorCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	options, err := c.options()
	if err != nil {
		return err
	}
	report := func(f doctor.Finding) { doctor.Print(os.Stdout, f) }
	if c.Output == "json" {
		report = func(doctor.Finding) {}
	}
	all := doctor.Run(ctx, options, report)
	text, failed := doctor.Sum(all)
	if c.Output == "json" {
		if err := doctor.PrintJSON(os.Stdout, all); err != nil {
			return err
		}
	} else {
		fmt.Println("\n" + text)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(all))
	}
	return ctx.Err()
}

func (c *DoctorCmd) options() (doctor.Options, error) {
	config, err := daemon.Planned(c.DataDir)
	if err != nil {
		return doctor.Options{}, err
	}
	o := doctor.Options{Config: config}
	// Without root the lock cannot be asked for; the check for root says so.
	if o.DaemonPID, _ = daemon.Running(config.DataDir); o.DaemonPID != 0 {
		kubeconfig := filepath.Join(config.DataDir, "admin.kubeconfig")
		o.Status = func(ctx context.Context) (*v1.Status, error) { return cli.Status(ctx, kubeconfig) }
	}
	return o, nil
}
