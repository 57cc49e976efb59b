package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleTime is how long a file of the import directory must stay as it is
// before it is read: whoever copies it there may not be done. One that is moved
// there whole is read after it, too.
const settleTime = 2 * time.Second

// ReasonImportFailed is the reason of the node's event for a file that could
// not be imported.
const ReasonImportFailed = "ImageImportFailed"

// Directory imports archives that are put into a directory, for hosts without
// a registry: *.tar, *.tar.gz, *.tgz and *.tar.zst. Each file is imported once,
// and again when its size or its time changes. What was imported stays when the
// file goes.
type Directory struct {
	Store *Store
	Path  string
	State string // a file that remembers what was imported
	Tell  func(reason, message string)
	Log   *slog.Logger

	done map[string]fileState
}

// fileState tells one content of a file from another.
type fileState struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Images   []string  `json:"images,omitempty"`
	Error    string    `json:"error,omitempty"`
}

func (a fileState) same(b fileState) bool {
	return a.Size == b.Size && a.Modified.Equal(b.Modified)
}

// Run imports what is there and what comes, until ctx ends. Nothing polls: the
// kernel tells of changes.
func (d *Directory) Run(ctx context.Context) error {
	if err := os.MkdirAll(d.Path, 0o755); err != nil {
		return fmt.Errorf("make image directory: %w", err)
	}
	d.load()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch image directory: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(d.Path); err != nil {
		return fmt.Errorf("watch image directory %s: %w", d.Path, err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			timer.Reset(settleTime)
		case err := <-watcher.Errors: // such as an overflow: something changed
			d.Log.Debug("watch the image directory", "error", err)
			timer.Reset(settleTime)
		case <-timer.C:
			if d.scan(ctx) {
				timer.Reset(settleTime)
			}
		}
	}
}

// scan imports what is new and settled, and reports whether something is not
// settled yet.
func (d *Directory) scan(ctx context.Context) (again bool) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		d.Log.Warn("the image directory cannot be read", "error", err)
		return false
	}
	here := map[string]bool{}
	for _, entry := range entries {
		if !isArchive(entry.Name()) || ctx.Err() != nil {
			continue
		}
		here[entry.Name()] = true
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		now := fileState{Size: info.Size(), Modified: info.ModTime()}
		if before, ok := d.done[entry.Name()]; ok && before.same(now) {
			continue
		}
		if time.Since(now.Modified) < settleTime && time.Until(now.Modified) < settleTime {
			again = true
			continue
		}
		d.take(ctx, entry.Name(), now)
	}
	for name := range d.done {
		if !here[name] {
			delete(d.done, name)
		}
	}
	d.save()
	return again
}

func isArchive(name string) bool {
	for _, end := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(name, end) && !strings.HasPrefix(name, ".") {
			return true
		}
	}
	return false
}

func (d *Directory) take(ctx context.Context, name string, state fileState) {
	images, err := d.read(ctx, filepath.Join(d.Path, name))
	if err != nil && ctx.Err() != nil {
		return // the next run begins with it
	}
	state.Images = images
	if err != nil {
		state.Error = err.Error()
		d.Log.Error("an archive in the image directory could not be imported; it is tried again when the file changes", "file", name, "error", err)
		d.Tell(ReasonImportFailed, fmt.Sprintf("Failed to import images from %s: %v", filepath.Join(d.Path, name), err))
	} else {
		d.Log.Info("images imported from the image directory", "file", name, "images", images)
	}
	d.done[name] = state
	d.save()
}

func (d *Directory) read(ctx context.Context, path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image archive: %w", err)
	}
	defer file.Close()
	return d.Store.Import(ctx, file, func(Progress) {})
}

func (d *Directory) load() {
	d.done = map[string]fileState{}
	data, err := os.ReadFile(d.State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(data, &d.done)
	}
	if err != nil {
		d.Log.Warn("what was imported before is not known; all archives are imported again", "error", err)
	}
}

// save is not synced: to import a file once more does no harm.
func (d *Directory) save() {
	data, err := json.Marshal(d.done)
	if err == nil {
		err = os.WriteFile(d.State+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(d.State+".new", d.State)
	}
	if err != nil {
		d.Log.Warn("what was imported could not be noted", "error", err)
	}
}
