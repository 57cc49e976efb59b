//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"shoal/cmd/shoal/internal/cli"
)

// DaemonCommands stand in for the daemon's where it cannot run.
type DaemonCommands struct {
	Start onLinuxOnly `cmd:"" group:"daemon" help:"Start the daemon (on Linux)." passthrough:""`
	Stop  onLinuxOnly `cmd:"" group:"daemon" help:"Stop the daemon (on Linux)." passthrough:""`

	Doctor  onLinuxOnly `cmd:"" group:"daemon" help:"Check this host (on Linux)." passthrough:""`
	Restore onLinuxOnly `cmd:"" group:"daemon" help:"Make a cell from a backup (on Linux)." passthrough:""`
	Keys    cli.KeysCmd `cmd:"" group:"cluster" help:"Rotate the key that gossip is encrypted with."`
	Lab     onLinuxOnly `cmd:"" group:"daemon" help:"Run several peers on one machine (on Linux)." passthrough:""`
}

// onLinuxOnly takes the place of a command that needs a Linux kernel.
type onLinuxOnly struct {
	Args []string `arg:"" optional:""`
}

// Run says where the command works.
func (onLinuxOnly) Run() error {
	return fmt.Errorf("the daemon runs on Linux only, this is %s\n"+
		"Start it on a Linux host and copy its admin.kubeconfig here; every other command then works with --kubeconfig.",
		runtime.GOOS)
}
