package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	v1 "shoal/api/control/v1"
	"shoal/store/backup"
)

// BackupCmd is `shoal backup`.
type BackupCmd struct {
	onPeer
	File   string `arg:"" help:"Where to write the backup; - is standard output."`
	Force  bool   `help:"Replace FILE if it is there."`
	Verify bool   `help:"Do not take a backup: check that FILE is a whole one."`
}

// Help is the detail of `shoal backup --help`.
func (*BackupCmd) Help() string {
	return `Writes everything the cell has agreed on to FILE: all objects as of one moment,
and the cell's own keys. One running peer is enough, and it goes on working.
'shoal restore FILE' makes a cell of it again.

The file has mode 0600 and holds every Secret and the cell's private keys in
plain form. Whoever reads it owns the cell: keep it as you keep those, or encrypt
it. Volumes, images and logs are not in it.

FILE appears only once it is complete and its checksum was verified.

` + examples("shoal backup cell.backup", "shoal backup --verify cell.backup", "shoal backup - | age -r age1... > cell.backup.age")
}

// Run takes a backup, or verifies one.
func (c *BackupCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	if c.Verify {
		return c.verify(streams)
	}
	if c.File == "-" {
		if out, ok := streams.Out.(*os.File); ok && term.IsTerminal(int(out.Fd())) {
			return errors.New("a backup is no text for a terminal; name a file, or send it on with |")
		}
		_, err := c.take(ctx, streams, streams.Out)
		return err
	}
	if err := c.checkTarget(); err != nil {
		return err
	}
	header, err := c.takeFile(ctx, streams)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "%s: %s\n", c.File, describe(header))
	return err
}

// checkTarget refuses before anything is read what would be refused at the end.
func (c *BackupCmd) checkTarget() error {
	info, err := os.Lstat(c.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", c.File, err)
	case info.IsDir():
		return fmt.Errorf("%s is a directory; name a file in it", c.File)
	case !c.Force:
		return fmt.Errorf("%s is there already; name another file, or replace it with --force", c.File)
	}
	return nil
}

// takeFile writes beside FILE first, so that FILE is a whole backup or what it
// was before. os.CreateTemp gives it mode 0600.
func (c *BackupCmd) takeFile(ctx context.Context, streams genericiooptions.IOStreams) (backup.Header, error) {
	file, err := os.CreateTemp(filepath.Dir(c.File), "."+filepath.Base(c.File)+".*")
	if err != nil {
		return backup.Header{}, fmt.Errorf("write backup: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already once renamed
	header, err := c.take(ctx, streams, file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return header, sole(err)
	}
	if err := os.Rename(file.Name(), c.File); err != nil {
		return header, fmt.Errorf("write backup: %w", err)
	}
	return header, nil
}

// take streams a backup to w and verifies it on the way.
func (c *BackupCmd) take(ctx context.Context, streams genericiooptions.IOStreams, w io.Writer) (backup.Header, error) {
	peer, err := c.connect(ctx, streams)
	if err != nil {
		return backup.Header{}, err
	}
	response, err := peer.send(ctx, http.MethodGet, v1.BackupPath, nil)
	if err != nil {
		return backup.Header{}, err
	}
	defer response.Body.Close()
	out := &failingWriter{writer: w}
	reader, err := backup.NewReader(io.TeeReader(response.Body, out))
	if err == nil {
		_, err = reader.Verify()
	}
	switch {
	case out.err != nil:
		return backup.Header{}, fmt.Errorf("write backup: %w; nothing was kept", out.err)
	case err != nil:
		return backup.Header{}, fmt.Errorf("take backup from %s: %w; nothing was kept, try again", peer.base.Host, err)
	}
	return reader.Header(), nil
}

// failingWriter remembers why writing failed: a TeeReader gives it as an error
// of reading.
type failingWriter struct {
	writer io.Writer
	err    error
}

// Write implements io.Writer.
func (w *failingWriter) Write(b []byte) (int, error) {
	n, err := w.writer.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}

func (c *BackupCmd) verify(streams genericiooptions.IOStreams) error {
	in := streams.In
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return fmt.Errorf("open backup: %w", err)
		}
		defer file.Close()
		in = file
	}
	reader, err := backup.NewReader(in)
	if err == nil {
		_, err = reader.Verify()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	_, err = fmt.Fprintf(streams.Out, "%s: %s\n", c.File, describe(reader.Header()))
	return err
}

func describe(h backup.Header) string {
	return fmt.Sprintf("a whole backup of cell %s, %d records, taken from %s at %s", h.Cell, h.Records, h.Peer, h.Time.Format(time.RFC3339))
}
