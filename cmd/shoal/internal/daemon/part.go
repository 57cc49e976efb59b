//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// part notes that this host is no member any more. What it holds stays, for
// people to look at; nothing of it enters a cell again.
func (p *peer) part(why string) error {
	p.identityMu.Lock()
	defer p.identityMu.Unlock()
	if p.identity.Left == "" {
		p.identity.Left, p.identity.LeftAt = why, time.Now().UTC().Truncate(time.Second)
	}
	return p.identity.save(p.config.DataDir)
}

// errNoMember says what to do with a data directory that is no member's.
func errNoMember(id *identity, dataDir string) error {
	return fmt.Errorf("this host is no member of its cell any more since %s (%s): what it holds may have been deleted there since; to join again, run `shoal token create` on a member and then here `shoal start%s --join HOST:7946 --token TOKEN`, which sets the old records aside; to begin a cell of its own, remove %s",
		id.LeftAt.Format(time.RFC3339), id.Left, dataDirFlag(dataDir), dataDir)
}

// setAside moves what a host that left has of its cell out of the way, so that
// it joins as a new one. The identity stays until the new one is written: a
// host that fails to join must not found a cell at its next start.
func setAside(dataDir string, id *identity) error {
	for _, dir := range []string{storeDir, pkiDir} {
		old := filepath.Join(dataDir, dir)
		if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		aside := old + ".left-" + id.LeftAt.Format("20060102-150405")
		for i := 2; ; i++ { // an attempt to join before made one already
			if _, err := os.Stat(aside); errors.Is(err, fs.ErrNotExist) {
				break
			}
			aside = fmt.Sprintf("%s.left-%s.%d", old, id.LeftAt.Format("20060102-150405"), i)
		}
		if err := os.Rename(old, aside); err != nil {
			return fmt.Errorf("set the records of the cell left aside: %w", err)
		}
	}
	return nil
}
