package store

import (
	"fmt"
	"sync/atomic"
	"testing"
)

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

// BenchmarkWrite measures synced creations by so many concurrent writers.
func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) { benchWrite(b, writers) })
	}
}

func benchWrite(b *testing.B, writers int) {
	db := openBench(b)
	value := make([]byte, benchValueBytes)
	var n atomic.Int64
	b.ResetTimer()
	err := inParallel(writers, func() error {
		for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
			key := fmt.Sprintf("/registry/things/ns/%d", i)
			if _, err := db.Update(b.Context(), Update{Key: key, Value: value, UID: "u"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	stats := db.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric(float64(stats.Writes)/float64(stats.Syncs), "writes/sync")
}

func fillBench(b *testing.B, db *DB) {
	b.Helper()
	value := make([]byte, benchValueBytes)
	var n atomic.Int64
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
