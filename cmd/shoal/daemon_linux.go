package main

// DaemonCommands are the commands that run and stop this host's daemon.
type DaemonCommands struct{}
