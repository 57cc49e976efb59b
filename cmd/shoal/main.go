// Command shoal is the daemon and the CLI of shoal.
//
// The client's side is in internal/cli and builds for any operating system; the
// daemon's commands are in daemon_linux.go and link the API server. Nothing
// else may be imported here, so that the client stays quick to start and free
// of what only Linux has.
package main

import (
	"os"

	"shoal/cmd/shoal/internal/cli"
)

// version is the release; the linker sets it.
var version = "v0.1.0-dev"

// grammar is the root of the command line.
type grammar struct {
	DaemonCommands
	cli.Commands
}

func main() {
	os.Exit(cli.Main(&grammar{}, version, os.Args[1:]))
}
