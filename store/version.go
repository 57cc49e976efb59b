package store

import (
	"fmt"
	"time"
)

// Version is this peer's position in its own order of changes; the API shows
// it as resourceVersion and badger uses it as commit timestamp. The upper 52
// bits are microseconds since epoch2024, the lower 12 the tag of the peer that
// issued it. Versions of one peer grow strictly; versions of two peers are not
// comparable beyond "roughly when".
type Version uint64

// Tag is the peer's number, unique in the cell.
type Tag uint16

const (
	tagBits = 12
	// MaxTag is the largest peer number a version can carry.
	MaxTag Tag = 1<<tagBits - 1
)

// epoch2024 is the zero of version time. 51 bits of microseconds from it last
// until 2095, and a version then still fits the int64 that clients parse.
var epoch2024 = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// VersionAt returns the version a peer would issue at time t.
func VersionAt(t time.Time, tag Tag) Version {
	return Version(microseconds(t)<<tagBits) | Version(tag&MaxTag)
}

// Tag returns the number of the peer that issued v.
func (v Version) Tag() Tag { return Tag(v) & MaxTag }

// Time returns when v was issued by its issuer's clock, to the microsecond.
func (v Version) Time() time.Time {
	return epoch2024.Add(time.Duration(v>>tagBits) * time.Microsecond)
}

func (v Version) String() string { return fmt.Sprintf("%d", uint64(v)) }

// microseconds counts from epoch2024; a clock before it counts as zero, so
// that a machine booting in 1970 still issues growing versions.
func microseconds(t time.Time) uint64 {
	us := t.Sub(epoch2024).Microseconds()
	if us < 0 {
		return 0
	}
	return uint64(us)
}

// VersionSource issues versions. Next is called by the committer alone and
// must return more than last.
type VersionSource interface {
	Next(last Version) Version
}

// clockVersions issues versions by the clock, and one microsecond after the
// last whenever the clock stands still or jumped back.
type clockVersions struct {
	clock Clock
	tag   Tag
}

func (c clockVersions) Next(last Version) Version {
	next := VersionAt(c.clock.Now(), c.tag)
	if next > last {
		return next
	}
	return Version((uint64(last)>>tagBits+1)<<tagBits) | Version(c.tag)
}
