package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"shoal/cmd/shoal/internal/daemon"
)

// RestoreCmd is `shoal restore`.
type RestoreCmd struct {
	File    string `arg:"" help:"The backup."`
	DataDir string `default:"/var/lib/shoal" placeholder:"DIR" help:"An empty data directory, or one that is not there yet (default ${default})."`

	StoreKeyFile string `placeholder:"FILE" help:"The key to encrypt the records on disk with; made if missing (default: store.key in the data directory)."`
}

// Help is the detail of `shoal restore --help`.
func (*RestoreCmd) Help() string {
	return `Makes a cell of one peer from a backup, on this host, without a daemon. It is the
same cell: kubeconfigs, service account tokens and uids stay good. Nodes are in
it as they were; remove those that are gone with 'shoal delete node NAME'. Other
hosts join anew, with new tokens: those in the backup are left out, as some may
have been used since.

The whole file is verified first. Secrets are in it in plain form; the
store that is made from it is encrypted.

Examples:

    sudo shoal stop --pods
    sudo mv /var/lib/shoal /var/lib/shoal.old
    sudo shoal restore cell.backup
    sudo shoal start --detach`
}

// Run restores the backup.
func (c *RestoreCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return daemon.Restore(ctx, c.File, daemon.Config{DataDir: c.DataDir, StoreKeyFile: c.StoreKeyFile}, os.Stdout)
}
