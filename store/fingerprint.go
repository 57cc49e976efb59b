package store

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// fingerprintBuckets: design section 3.
const fingerprintBuckets = 256

// Fingerprints are sums of the digests of live records, by bucket of their
// keys. Peers that hold the same have the same. Records with a time to live are
// left out, as they end on each peer by its own clock, and so are tombstones,
// which peers reap when they come to it.
type Fingerprints [fingerprintBuckets]uint64

func bucketOf(key string) byte { return byte(xxhash.Sum64String(key)) }

func counted(r *Record) bool { return r.Live() && r.ExpiresMicros == 0 }

func (f *Fingerprints) add(key string, d Digest)    { f[bucketOf(key)] += uint64(d) }
func (f *Fingerprints) remove(key string, d Digest) { f[bucketOf(key)] -= uint64(d) }

// Root combines all buckets.
func (f *Fingerprints) Root() uint64 {
	var b []byte
	for _, sum := range f {
		b = binary.BigEndian.AppendUint64(b, sum)
	}
	return xxhash.Sum64(b)
}
