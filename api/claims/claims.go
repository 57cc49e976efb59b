// Package claims hands out numbers from a range (cluster IPs, node ports) so
// that no two services of a cell hold the same one.
//
// A number is taken by creating its record and free once the record is
// deleted: the record is the claim, there is no bitmap to keep in step with
// it. Each peer draws from its own block of the range first, so that two sides
// of a split network seldom collide (design section 7).
//
// What always holds: a number is answered only after its record is durable; a
// number whose record exists here is never answered again. What other peers
// claim and release is followed, not asked for. A claim whose service was never
// written (a crash between the two) is released by Repair.
//
// Two sides of a split may still claim one number. When they meet, the claim
// born earlier remains; a claim names its owner once that is known (Bind), so
// that everybody can tell who keeps the number and who needs another.
//
// Called by api/, behind upstream's allocator interfaces.
package claims

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// Records is what a ledger needs of the store.
type Records interface {
	// ReplaceRecord writes key if it still holds old; done says whether it did.
	ReplaceRecord(ctx context.Context, key string, old, value []byte) (done bool, err error)
	// FollowRecords reports all records below prefix, as a whole first and
	// again whenever it has lost track, and then the changes; a nil value is
	// a deletion. It returns when ctx ends.
	FollowRecords(ctx context.Context, prefix string, whole func(map[string][]byte), change func(key string, value []byte)) error

	// CreateRecord writes key unless it exists; created says which.
	CreateRecord(ctx context.Context, key string, value []byte) (created bool, err error)
	// DeleteRecord removes key; a missing key is no error.
	DeleteRecord(ctx context.Context, key string) error
	// ListRecords returns the records below prefix by key.
	ListRecords(ctx context.Context, prefix string) (map[string][]byte, error)
}

// ErrFull says that every number of the range is taken.
var ErrFull = errors.New("every number of the range is taken")

// Ledger is the claims on one range of size numbers, 0 to size-1.
type Ledger struct {
	*book[int]
	size int
	// reserved numbers at the bottom of the range are drawn last, so that
	// people can pick fixed ones there (KEP-3070).
	reserved int
	next     int // where the next draw starts; guarded by the book's mu
}

// Claim is who holds a number.
type Claim struct {
	// Holder is the peer that made the claim.
	Holder string
	// Owner is what it was made for, as Bind was told; empty before.
	Owner string
}

// A claim's record is the holder, and the owner on a second line.
func (c Claim) encode() []byte {
	if c.Owner == "" {
		return []byte(c.Holder)
	}
	return []byte(c.Holder + "\n" + c.Owner)
}

func decodeClaim(b []byte) Claim {
	holder, owner, _ := strings.Cut(string(b), "\n")
	return Claim{Holder: holder, Owner: owner}
}

// Open reads the claims below prefix. holder names this peer and decides where
// in the range it begins to draw.
func Open(ctx context.Context, records Records, prefix, holder string, size, reserved int) (*Ledger, error) {
	l := &Ledger{size: size, reserved: reserved, next: reserved + ownStart(holder, size-reserved)}
	l.book = &book[int]{
		records: records, prefix: prefix, holder: holder, taken: map[int]Claim{},
		write: strconv.Itoa,
		read: func(s string) (int, bool) {
			n, err := strconv.Atoi(s)
			return n, err == nil && n >= 0 && n < size
		},
	}
	return l, l.open(ctx)
}

// ownStart is where holder's own part of a range of size numbers begins. Two
// peers' parts rarely meet: of a thousand hosts that each claim one range of
// pods at the same moment, a few share a start, and with block borders all
// that share a block would.
func ownStart(holder string, size int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(holder))
	return int(h.Sum64() % uint64(max(1, size)))
}

// Run follows what other peers claim and release, until ctx ends. changed, if
// not nil, is called after each change, and with -1 after there may have been
// many; it must not block.
func (l *Ledger) Run(ctx context.Context, changed func(n int)) error {
	if changed == nil {
		changed = func(int) {}
	}
	return l.follow(ctx, changed, func() { changed(-1) })
}

// Take claims n; taken is false when somebody holds it. The record decides,
// not what was heard of it.
func (l *Ledger) Take(n int) (taken bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeNumber(n)
}

func (l *Ledger) takeNumber(n int) (bool, error) {
	if n < 0 || n >= l.size {
		return false, fmt.Errorf("claim %d of %s: outside 0..%d", n, l.prefix, l.size-1)
	}
	return l.takeLocked(n, "")
}

// TakeNext claims a free number, from this peer's block first and from the
// reserved part last. It fails with ErrFull when there is none.
func (l *Ledger) TakeNext() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.size - l.reserved
	for i := range open {
		n := l.reserved + (l.next-l.reserved+i)%open
		if _, ok := l.taken[n]; ok {
			continue
		}
		if taken, err := l.takeNumber(n); err != nil {
			return 0, err
		} else if taken {
			l.next = n + 1
			return n, nil
		}
	}
	for n := range l.reserved {
		if _, ok := l.taken[n]; ok {
			continue
		}
		if taken, err := l.takeNumber(n); err != nil {
			return 0, err
		} else if taken {
			return n, nil
		}
	}
	return 0, ErrFull
}

// Mine returns the numbers this holder has claimed, ascending.
func (l *Ledger) Mine() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var mine []int
	for n, c := range l.taken {
		if c.Holder == l.holder {
			mine = append(mine, n)
		}
	}
	slices.Sort(mine)
	return mine
}

// Left returns how many numbers are free.
func (l *Ledger) Left() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size - len(l.taken)
}

// Each calls f for every taken number, in no order.
func (l *Ledger) Each(f func(int)) {
	for n := range l.snapshot() {
		f(n)
	}
}

// Repair makes the claims agree with the numbers in use: one in use without a
// record is claimed, and one that was idle at the previous Repair and is idle
// now is released. suspects is what the previous call returned; two looks keep
// a service that is being written from losing its number.
func (l *Ledger) Repair(inUse map[int]bool, suspects map[int]bool) (map[int]bool, error) {
	var problems []error
	for n := range inUse {
		if l.Has(n) {
			continue
		}
		if _, err := l.Take(n); err != nil {
			problems = append(problems, err)
		}
	}
	idle := map[int]bool{}
	for n := range l.snapshot() {
		switch {
		case inUse[n]:
		case suspects[n]:
			problems = append(problems, l.Free(n))
		default:
			idle[n] = true
		}
	}
	return idle, errors.Join(problems...)
}
