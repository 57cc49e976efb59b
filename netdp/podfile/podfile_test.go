package podfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

type note struct {
	UID  string `json:"uid"`
	Text string `json:"text"`
}

func (n note) PodUID() string { return n.UID }

func TestStore(t *testing.T) {
	for _, synced := range []bool{false, true} {
		s := Store[note]{Dir: filepath.Join(t.TempDir(), "pods"), Synced: synced, Repair: "ask somebody"}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Load(); err != nil || len(got) > 0 {
			t.Fatalf("without a directory: %v, %v", got, err)
		}
		must(s.Save(note{"a", "first"}))
		must(s.Save(note{"b", "other"}))
		must(s.Save(note{"a", "second"}))
		must(s.Remove("b"))
		must(s.Remove("b"))
		must(os.WriteFile(filepath.Join(s.Dir, newFile+"1"), []byte("{"), 0o600))
		if got, err := s.Load(); err != nil || len(got) != 1 || got[0] != (note{"a", "second"}) {
			t.Errorf("loaded: %v, %v", got, err)
		}
		must(DropUnfinished(s.Dir))
		if files, _ := os.ReadDir(s.Dir); len(files) != 1 {
			t.Errorf("files: %v", files)
		}
		for name, text := range map[string]string{"cut": "{", "foreign": `{"uid":"a"}`} {
			path := filepath.Join(s.Dir, name+suffix)
			must(os.WriteFile(path, []byte(text), 0o600))
			if _, err := s.Load(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ask somebody, then start again") {
				t.Errorf("a record that is %s: %v", name, err)
			}
			must(os.Remove(path))
		}
	}
}

// TestLoadWhileOthersWrite: it sees whole records, and keeps none from being
// written.
func TestLoadWhileOthersWrite(t *testing.T) {
	s := Store[note]{Dir: t.TempDir()}
	if err := s.Save(note{"stays", ""}); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	errs := make(chan error, 4)
	for i := range cap(errs) {
		writers.Go(func() {
			var err error
			for n := 0; n < 300 && err == nil; n++ {
				uid := fmt.Sprint(i)
				err = errors.Join(s.Save(note{uid, strings.Repeat("x", n)}), s.Remove(uid))
			}
			errs <- err
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if got, err := s.Load(); err != nil || len(got) == 0 {
			t.Fatalf("loaded: %v, %v", got, err)
		}
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestCheckUID(t *testing.T) {
	for _, uid := range []string{"", "a/b", ".a", "a\x00", strings.Repeat("a", maxUIDLength+1)} {
		if CheckUID(uid) == nil {
			t.Errorf("%q passes", uid)
		}
	}
	if err := CheckUID("3f1c-static"); err != nil {
		t.Error(err)
	}
}
