package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	crashRounds  = 20
	crashWrites  = 1000
	crashWriters = 8
	crashKeys    = 5
	// crashDeleteEvery so many writes of a key, one is a deletion.
	crashDeleteEvery = 6

	crashDirEnv   = "SHOAL_STORE_CRASH_DIR"
	crashRoundEnv = "SHOAL_STORE_CRASH_ROUND"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := crashChild(dir, os.Getenv(crashRoundEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func crashKey(round, writer, key int) string {
	return fmt.Sprintf("/crash/r%02d/w%d/k%d", round, writer, key)
}

// crashValue is what the seq-th write of a key stores: sizes reach into the
// value log, and a checksum covers all.
func crashValue(key string, seq int) []byte {
	sizes := []int{10, 700, 5_000, 60_000, 300_000}
	b := binary.BigEndian.AppendUint64(nil, uint64(seq))
	b = append(b, bytes.Repeat([]byte{byte(seq), byte(seq >> 8), 'x'}, sizes[(seq+len(key))%len(sizes)]/3)...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func isCrashDelete(seq int) bool { return seq%crashDeleteEvery == crashDeleteEvery-1 }

// crashChild writes, and prints a line for each write answered.
func crashChild(dir, roundText string) error {
	round, err := strconv.Atoi(roundText)
	if err != nil {
		return err
	}
	db, err := Open(context.Background(), Options{Dir: dir})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, crashWriters)
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; i < crashWrites/crashWriters && errs[w] == nil; i++ {
				errs[w] = crashWrite(db, crashKey(round, w, i%crashKeys), i/crashKeys)
			}
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), db.Close())
}

func crashWrite(db *DB, key string, seq int) error {
	u := Update{Key: key, Expect: Any, UID: testUUID, Delete: isCrashDelete(seq)}
	if !u.Delete {
		u.Value = crashValue(key, seq)
	}
	e, err := db.Update(context.Background(), u)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s %d %d\n", key, seq, e.Version)
	return err
}

type answered struct {
	seq     int
	version Version
}

// TestKill9: a process is killed at random moments of 1,000 writes, 20 times
// over on the same directory. Every answered write is there afterwards, whole,
// or was superseded by the one write after it that was under way.
func TestKill9(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a process 20 times")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acknowledged := make(map[string]answered)
	for round := range crashRounds {
		runAndKill(t, dir, round, random.IntN(crashWrites), acknowledged)
		db := openTest(t, Options{Dir: dir})
		for key, last := range acknowledged {
			checkSurvived(t, db, key, last)
		}
		checkWhole(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("in round %d of seed %d", round, seed)
		}
	}
}

// runAndKill runs the child until it has answered so many writes, kills it and
// notes all that it answered.
func runAndKill(t *testing.T, dir string, round, after int, acknowledged map[string]answered) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashRoundEnv+"="+strconv.Itoa(round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	n := 0
	for ; lines.Scan(); n++ {
		if n == after {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
		}
		var key string
		var a answered
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %d", &key, &a.seq, &a.version); err != nil {
			continue // the line the kill cut off
		}
		if a.seq >= acknowledged[key].seq {
			acknowledged[key] = a
		}
	}
	var killed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &killed) {
		t.Fatal(err)
	}
	if n <= after && n < crashWrites {
		t.Fatalf("the child stopped after %d writes by itself", n)
	}
}

func checkSurvived(t *testing.T, db *DB, key string, last answered) {
	t.Helper()
	e, _, err := db.Get(key, Latest)
	switch {
	case errors.Is(err, ErrNotFound):
		if !isCrashDelete(last.seq) && !isCrashDelete(last.seq+1) {
			t.Errorf("%s: write %d was answered and is gone", key, last.seq)
		}
	case err != nil:
		t.Errorf("%s: %v", key, err)
	default:
		seq := int(binary.BigEndian.Uint64(e.Value))
		if seq != last.seq && seq != last.seq+1 || seq == last.seq && e.Version != last.version {
			t.Errorf("%s: holds write %d of version %s, write %d of version %s was answered", key, seq, e.Version, last.seq, last.version)
		}
	}
}

// checkWhole checks every record there is, answered or not.
func checkWhole(t *testing.T, db *DB) {
	t.Helper()
	entries, _, err := db.List(Range{Prefix: "/crash/"}, Latest)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range entries {
		if err != nil {
			t.Error(err)
			return
		}
		if len(e.Value) < 12 || !bytes.Equal(e.Value, crashValue(e.Key, int(binary.BigEndian.Uint64(e.Value)))) {
			t.Errorf("%s: half-written, %d bytes", e.Key, len(e.Value))
		}
	}
}
