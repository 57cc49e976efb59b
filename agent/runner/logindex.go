package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// logIndex names the log directories this runner made, one empty file for
// each. Several daemons and kubelets may share one log directory, so the name
// of a directory there does not say whose it is.
type logIndex struct{ dir string }

func openLogIndex(dir string) (*logIndex, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open log index: %w", err)
	}
	return &logIndex{dir}, nil
}

// add comes before the directory is made: a name without a directory is
// harmless, a directory without a name would stay for good.
func (x *logIndex) add(name string) error {
	f, err := os.OpenFile(filepath.Join(x.dir, name), os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("note log directory: %w", err)
	}
	return f.Close()
}

// remove deletes the log directory below base, then its name.
func (x *logIndex) remove(base, name string) error {
	if err := os.RemoveAll(filepath.Join(base, name)); err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	if err := os.Remove(filepath.Join(x.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget log directory: %w", err)
	}
	return nil
}

// sweep removes the logs of this runner's pods that do not live.
func (x *logIndex) sweep(base string, lives func(uid string) bool) error {
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		return fmt.Errorf("list log directories: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if uid, ok := logUID(e.Name()); ok && !lives(uid) {
			errs = append(errs, x.remove(base, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// logName is the pod's log directory in the kubelet's form.
func logName(pod *v1.Pod) string {
	return pod.Namespace + "_" + pod.Name + "_" + string(pod.UID)
}

// logUID takes the pod's uid from the name of its log directory.
func logUID(name string) (string, bool) {
	parts := strings.Split(name, "_")
	if len(parts) != 3 {
		return "", false
	}
	return parts[2], true
}
