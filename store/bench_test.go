package store

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// benchDir is on the file system of the working tree, not a RAM disk: what is
// measured is mostly its sync.
func openBench(b *testing.B) *DB {
	b.Helper()
	db, err := Open(b.Context(), Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

const (
	benchWriters    = 64
	benchValueBytes = 1024
	benchRecords    = 10_000
)

func BenchmarkWrite64(b *testing.B) {
	db := openBench(b)
	value := make([]byte, benchValueBytes)
	var n atomic.Int64
	b.SetParallelism(benchWriters)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("/registry/things/ns/%d", n.Add(1))
			if _, err := db.Update(b.Context(), Update{Key: key, Value: value, UID: "u"}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric(float64(db.Stats().Writes)/float64(db.Stats().Syncs), "writes/sync")
}

func fillBench(b *testing.B, db *DB) {
	b.Helper()
	value := make([]byte, benchValueBytes)
	var n atomic.Int64
	b.SetParallelism(benchWriters)
	err := inParallel(benchWriters, func() error {
		for i := n.Add(1); i <= benchRecords; i = n.Add(1) {
			key := fmt.Sprintf("/registry/things/ns/%06d", i)
			if _, err := db.Update(b.Context(), Update{Key: key, Value: value, UID: "u"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkGet(b *testing.B) {
	db := openBench(b)
	fillBench(b, db)
	i := 0
	for b.Loop() {
		i++
		key := fmt.Sprintf("/registry/things/ns/%06d", i*7919%benchRecords+1)
		if _, _, err := db.Get(key, Latest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	db := openBench(b)
	fillBench(b, db)
	for b.Loop() {
		entries, _, err := db.List(Range{Prefix: "/registry/things/"}, Latest)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for _, err := range entries {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != benchRecords {
			b.Fatalf("listed %d records, want %d", n, benchRecords)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRecords, "ns/record")
}
