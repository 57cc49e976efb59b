package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	// Length is how many ids a pod has, the kubelet's default.
	Length = 65536
	// rangesMax bounds the ranges of a host. The kubelet's default is one for
	// each pod that a host may have; here some are left for pods on their way out.
	rangesMax = 1024
	// recordName is the file in a pod's directory that has its first id.
	recordName = "userns"
)

// IDs hands ranges of ids to pods. As the kubelet's without a user "kubelet" in
// /etc/subuid, they begin behind the first 65536, which are the host's own.
type IDs struct {
	dir string // of the pods' directories

	mu   sync.Mutex
	used map[uint32]string // first id to pod uid; guarded by mu
}

// OpenIDs reads which ranges the pods below dir have.
func OpenIDs(dir string) (*IDs, error) {
	i := &IDs{dir: dir, used: map[uint32]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*", recordName))
	if err != nil {
		return nil, fmt.Errorf("find ids of pods: %w", err)
	}
	for _, file := range files {
		uid := filepath.Base(filepath.Dir(file))
		first, err := readRecord(file)
		if err != nil {
			return nil, err
		}
		if other, taken := i.used[first]; taken {
			return nil, fmt.Errorf("pods %s and %s have the same user ids: remove one of %s and %s when neither runs", other, uid, i.record(other), file)
		}
		i.used[first] = uid
	}
	return i, nil
}

func (i *IDs) record(uid string) string { return filepath.Join(i.dir, uid, recordName) }

func readRecord(file string) (uint32, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read ids of a pod: %w", err)
	}
	first, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 32)
	if err != nil || first%Length != 0 || first == 0 || first > rangesMax*Length {
		return 0, fmt.Errorf("read ids of a pod: %s has no first id of a range: remove it when the pod does not run", file)
	}
	return uint32(first), nil
}

// Take gives the first id of the pod's range, the same each time.
func (i *IDs) Take(uid string) (uint32, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for first, owner := range i.used {
		if owner == uid {
			return first, nil
		}
	}
	for n := uint32(1); n <= rangesMax; n++ {
		first := n * Length
		if _, taken := i.used[first]; taken {
			continue
		}
		if err := i.save(uid, first); err != nil {
			return 0, fmt.Errorf("note ids of pod %s: %w", uid, err)
		}
		i.used[first] = uid
		return first, nil
	}
	return 0, errors.New("could not find an empty slot to allocate a user namespace")
}

// save writes the record as a whole or not at all. That it may be lost with a
// crash of the host is fine: no file that outlives one has an owner of the range.
func (i *IDs) save(uid string, first uint32) error {
	file := i.record(uid)
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, first)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Release takes the pod's range back, when nothing of the pod is left.
func (i *IDs) Release(uid string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for first, owner := range i.used {
		if owner != uid {
			continue
		}
		if err := os.Remove(i.record(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("release ids of pod %s: %w", uid, err)
		}
		delete(i.used, first)
	}
	return nil
}
