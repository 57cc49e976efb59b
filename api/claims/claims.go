// Package claims hands out numbers from a range (cluster IPs, node ports) so
// that no two services of a cell hold the same one.
//
// A number is taken by creating its record and free once the record is
// deleted: the record is the claim, there is no bitmap to keep in step with
// it. Each peer draws from its own block of the range first, so that two sides
// of a split network seldom collide (design section 7).
//
// What always holds: a number is answered only after its record is durable; a
// number whose record exists is never answered again. A claim whose service
// was never written (a crash between the two) is released by Repair.
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
	"sync"
	"time"
)

// Records is what a ledger needs of the store.
type Records interface {
	// CreateRecord writes key unless it exists; created says which.
	CreateRecord(ctx context.Context, key string, value []byte) (created bool, err error)
	// DeleteRecord removes key; a missing key is no error.
	DeleteRecord(ctx context.Context, key string) error
	// ListRecords returns the records below prefix by key.
	ListRecords(ctx context.Context, prefix string) (map[string][]byte, error)
}

const (
	// blocks is how many blocks a range is cut into. A cell has at most 1,024
	// peers, but few make services; 64 blocks keep each large enough (43 node
	// ports) while two peers rarely share one.
	blocks = 64
	// opTimeout bounds one claim; upstream's interface carries no context.
	opTimeout = 10 * time.Second
)

// ErrFull says that every number of the range is taken.
var ErrFull = errors.New("every number of the range is taken")

// Ledger is the claims on one range of size numbers, 0 to size-1.
type Ledger struct {
	records Records
	prefix  string // of the records' keys, ends in "/"
	holder  string // this peer, written into the record for people who read it
	size    int
	// reserved numbers at the bottom of the range are drawn last, so that
	// people can pick fixed ones there (KEP-3070).
	reserved int

	mu    sync.Mutex
	taken map[int]string // number to holder; guarded by mu
	next  int            // where the next draw starts; guarded by mu
}

// Open reads the claims below prefix. holder names this peer and decides which
// block it draws from first.
func Open(ctx context.Context, records Records, prefix, holder string, size, reserved int) (*Ledger, error) {
	l := &Ledger{records: records, prefix: prefix, holder: holder, size: size, reserved: reserved, taken: map[int]string{}}
	l.next = reserved + blockStart(holder, size-reserved)
	found, err := records.ListRecords(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("read claims below %s: %w", prefix, err)
	}
	for key, holder := range found {
		if n, err := strconv.Atoi(strings.TrimPrefix(key, prefix)); err == nil && n >= 0 && n < size {
			l.taken[n] = string(holder)
		}
	}
	return l, nil
}

// blockStart is the first number of holder's block in a range of size numbers.
func blockStart(holder string, size int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(holder))
	count := min(blocks, max(1, size))
	return int(h.Sum64()%uint64(count)) * (size / count)
}

// Take claims n; taken is false when somebody holds it.
func (l *Ledger) Take(n int) (taken bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeLocked(n)
}

func (l *Ledger) takeLocked(n int) (bool, error) {
	if n < 0 || n >= l.size {
		return false, fmt.Errorf("claim %d of %s: outside 0..%d", n, l.prefix, l.size-1)
	}
	if _, ok := l.taken[n]; ok {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	created, err := l.records.CreateRecord(ctx, l.key(n), []byte(l.holder))
	if err != nil {
		return false, fmt.Errorf("claim %d of %s: %w", n, l.prefix, err)
	}
	if created {
		l.taken[n] = l.holder
	} else {
		l.taken[n] = "" // made by another peer since Open
	}
	return created, nil
}

// TakeNext claims a free number, from this peer's block first and from the
// reserved part last. It fails with ErrFull when there is none.
func (l *Ledger) TakeNext() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.size - l.reserved
	for i := range open {
		n := l.reserved + (l.next-l.reserved+i)%open
		if taken, err := l.takeLocked(n); err != nil {
			return 0, err
		} else if taken {
			l.next = n + 1
			return n, nil
		}
	}
	for n := range l.reserved {
		if taken, err := l.takeLocked(n); err != nil {
			return 0, err
		} else if taken {
			return n, nil
		}
	}
	return 0, ErrFull
}

// Free gives n back. Freeing a free number is no error.
func (l *Ledger) Free(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if err := l.records.DeleteRecord(ctx, l.key(n)); err != nil {
		return fmt.Errorf("release %d of %s: %w", n, l.prefix, err)
	}
	delete(l.taken, n)
	return nil
}

// Has reports whether n is taken.
func (l *Ledger) Has(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.taken[n]
	return ok
}

// Mine returns the numbers this holder has claimed, ascending.
func (l *Ledger) Mine() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var mine []int
	for n, holder := range l.taken {
		if holder == l.holder {
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
	for _, n := range l.snapshot() {
		f(n)
	}
}

func (l *Ledger) snapshot() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]int, 0, len(l.taken))
	for n := range l.taken {
		all = append(all, n)
	}
	return all
}

// Repair makes the claims agree with the numbers in use: one in use without a
// record is claimed, and one that was idle at the previous Repair and is idle
// now is released. suspects is what the previous call returned; two looks keep
// a service that is being written from losing its number.
func (l *Ledger) Repair(inUse map[int]bool, suspects map[int]bool) (map[int]bool, error) {
	var problems []error
	for n := range inUse {
		if _, err := l.Take(n); err != nil {
			problems = append(problems, err)
		}
	}
	idle := map[int]bool{}
	for _, n := range l.snapshot() {
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

func (l *Ledger) key(n int) string { return l.prefix + strconv.Itoa(n) }
