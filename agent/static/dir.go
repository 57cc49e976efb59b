package static

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
)

const (
	// maxManifest is the kubelet's bound on one file, in bytes.
	maxManifest = 10 << 20
	// maxManifests bounds the files of a directory: as many pods as a host
	// takes, twice.
	maxManifests = 500
	// settle is how long after a change the directory is read: programs write
	// a file in several steps.
	settle = 100 * time.Millisecond
	// missing is how often a directory that is not there is looked for.
	missing = 5 * time.Second
)

// Dir follows one directory.
type Dir struct {
	Path string
	Node string
	// Bad hears of each file that is no manifest, once for each content.
	Bad func(file string, err error)

	last map[string]read // by file
}

// read is what a file last came to.
type read struct {
	pod *v1.Pod // the last good one
	bad string  // the error told
}

// Load reads all files. Hidden ones and directories are none of ours.
func (d *Dir) Load() []*v1.Pod {
	entries, err := os.ReadDir(d.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.tell(d.Path, err)
		return d.kept()
	}
	now := map[string]read{}
	names := map[string]string{}
	var pods []*v1.Pod
	for i, e := range entries {
		file := filepath.Join(d.Path, e.Name())
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		if i >= maxManifests {
			d.tell(file, fmt.Errorf("more than %d files are in %s; the rest is ignored", maxManifests, d.Path))
			break
		}
		pod, err := d.file(file)
		if errors.Is(err, fs.ErrNotExist) { // it went just now
			continue
		}
		before := d.last[file]
		if err == nil {
			if other := names[pod.Namespace+"/"+pod.Name]; other != "" {
				err = fmt.Errorf("pod %s/%s is in %s already", pod.Namespace, pod.Name, other)
				before.pod = nil
			}
		}
		r := read{pod: pod}
		if err != nil {
			r = read{pod: before.pod, bad: err.Error()}
			if r.bad != before.bad {
				d.tell(file, err)
			}
		}
		now[file] = r
		if r.pod != nil {
			names[r.pod.Namespace+"/"+r.pod.Name] = file
			pods = append(pods, r.pod)
		}
	}
	d.last = now
	return pods
}

func (d *Dir) kept() []*v1.Pod {
	var pods []*v1.Pod
	for _, r := range d.last {
		if r.pod != nil {
			pods = append(pods, r.pod)
		}
	}
	return pods
}

func (d *Dir) tell(file string, err error) {
	if d.Bad != nil {
		d.Bad(file, err)
	}
}

func (d *Dir) file(name string) (*v1.Pod, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read manifest: %s is no regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("read manifest: %s is larger than %d bytes", name, maxManifest)
	}
	return Decode(data, name, d.Node)
}

// Run calls changed with all pods whenever the directory may have changed,
// until ctx ends.
func (d *Dir) Run(ctx context.Context, changed func([]*v1.Pod)) error {
	for ctx.Err() == nil {
		if err := d.follow(ctx, changed); err != nil && ctx.Err() == nil {
			d.tell(d.Path, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(missing):
		}
	}
	return nil
}

// follow watches until the directory goes away.
func (d *Dir) follow(ctx context.Context, changed func([]*v1.Pod)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(d.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			changed(d.Load()) // all its pods went with it
			return nil
		}
		return fmt.Errorf("watch manifests in %s: %w", d.Path, err)
	}
	changed(d.Load())
	var due <-chan time.Time
	soon := func() {
		if due == nil {
			due = time.After(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			if event.Name == d.Path && event.Has(fsnotify.Remove|fsnotify.Rename) {
				changed(d.Load())
				return nil
			}
			soon()
		case <-watcher.Errors: //nolint:errcheck // events were lost
			soon()
		case <-due:
			due = nil
			changed(d.Load())
		}
	}
}
