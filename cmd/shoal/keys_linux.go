package main

import (
	"fmt"

	"shoal/cmd/shoal/internal/cli"
	"shoal/cmd/shoal/internal/daemon"
)

// KeysCmd groups the commands about keys: those of the cell, and this host's.
type KeysCmd struct {
	cli.KeysCmd
	RotateStore RotateStoreCmd `cmd:"" help:"Replace the key that this host's records on disk are encrypted with."`
}

// Help is the detail of `shoal keys --help`.
func (*KeysCmd) Help() string {
	return `Examples:

    shoal keys rotate
    sudo shoal keys rotate-store`
}

// RotateStoreCmd is `shoal keys rotate-store`.
type RotateStoreCmd struct {
	DataDir string `default:"/var/lib/shoal" placeholder:"DIR" help:"The daemon's data directory (default ${default})."`
}

// Help is the detail of `shoal keys rotate-store --help`.
func (*RotateStoreCmd) Help() string {
	return `Puts a new key in front of the old one in the file of this host's key, store.key in
the data directory unless start was given --store-key-file. From the next start on
the new one encrypts, and the old one is removed from the file. Pods go on running
meanwhile. Other hosts have keys of their own.

Examples:

    sudo shoal keys rotate-store
    sudo shoal stop && sudo shoal start --detach`
}

// Run rotates the key.
func (c *RotateStoreCmd) Run() error {
	path, err := daemon.RotateStoreKey(c.DataDir)
	if err != nil {
		return err
	}
	fmt.Printf("new key in %s; the next start of the daemon encrypts with it and removes the old one\n", path)
	return nil
}
