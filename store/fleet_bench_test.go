package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

const (
	fleetPods   = 150_000
	fleetOthers = 15_000
	// A pod as the API stores it, without managed fields, has about this size.
	fleetValueBytes = 1800
)

// BenchmarkFleet fills one peer's store as a fleet of 5,000 hosts does, by
// merging, and measures what that costs at rest, to open again and to read from.
func BenchmarkFleet(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		db := openFleet(b, dir)
		fillFleet(b, db)
		// Two minutes later: what a merge leaves behind has been compacted.
		db.compactTables()
		anonymous := anonymousMB(b)
		reads := readFleet(b, db)
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		db = openFleet(b, dir)
		b.ReportMetric(time.Since(began).Seconds(), "restart-s")
		b.ReportMetric(anonymous, "anonymous-MB")
		b.ReportMetric(anonymousMB(b), "anonymous-after-restart-MB")
		b.ReportMetric(float64(reads.Microseconds()), "read-µs")
		if n := db.Stats().Records; n < fleetPods+fleetOthers {
			b.Fatalf("%d records after a restart", n)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func openFleet(b *testing.B, dir string) *DB {
	b.Helper()
	db, err := Open(context.Background(), Options{Dir: dir, Keys: [][]byte{key(1)}})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func fleetKey(i int) string {
	if i < fleetPods {
		return fmt.Sprintf("/registry/pods/namespace-%03d/deployment-%06d-7d4b9c6f5-x%05d", i%500, i/10, i)
	}
	return fmt.Sprintf("/registry/configmaps/namespace-%03d/settings-%06d", i%500, i)
}

func fillFleet(b *testing.B, db *DB) {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	now := HLC(0).Tick(time.Now())
	var deltas []Delta
	for i := range fleetPods + fleetOthers {
		actor := Actor(1 + i%5000)
		value := make([]byte, fleetValueBytes)
		for j := range value {
			value[j] = byte(random.Uint32())
		}
		s := Stamp{Time: now + HLC(i), Actor: actor}
		deltas = append(deltas, Delta{
			Key: fleetKey(i), Dot: Dot{Actor: actor, Sequence: uint64(1 + i/5000)},
			Record: Record{UID: fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i), CausalLength: 1, Born: s, Stamps: []Stamp{s}, Value: value},
		})
		if len(deltas) == 512 || i == fleetPods+fleetOthers-1 {
			if err := db.Merge(context.Background(), deltas); err != nil {
				b.Fatal(err)
			}
			deltas = nil
		}
	}
}

func readFleet(b *testing.B, db *DB) time.Duration {
	b.Helper()
	const reads = 10_000
	began := time.Now()
	for i := range reads {
		if _, _, err := db.Get(fleetKey(i*7919%fleetPods), Latest); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began) / reads
}

// anonymousMB is what the process holds beside mapped files, once garbage is
// given back.
func anonymousMB(b *testing.B) float64 {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		b.Skip(err)
	}
	for line := range strings.Lines(string(data)) {
		var kilobytes float64
		if _, err := fmt.Sscanf(line, "Anonymous: %f kB", &kilobytes); err == nil {
			return kilobytes / 1024
		}
	}
	b.Fatal("smaps_rollup has no line on anonymous memory")
	return 0
}
