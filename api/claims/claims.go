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
	"sync"
	"time"
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

// opTimeout bounds one claim; upstream's interface carries no context.
const opTimeout = 10 * time.Second

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
	taken map[int]Claim // as far as heard of; guarded by mu
	next  int           // where the next draw starts; guarded by mu
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
	l := &Ledger{records: records, prefix: prefix, holder: holder, size: size, reserved: reserved, taken: map[int]Claim{}}
	l.next = reserved + ownStart(holder, size-reserved)
	found, err := records.ListRecords(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("read claims below %s: %w", prefix, err)
	}
	l.replace(found)
	return l, nil
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
	tell := func(n int) {
		if changed != nil {
			changed(n)
		}
	}
	err := l.records.FollowRecords(ctx, l.prefix, func(all map[string][]byte) {
		l.replace(all)
		tell(-1)
	}, func(key string, value []byte) {
		if n, ok := l.number(key); ok {
			l.hear(n, value)
			tell(n)
		}
	})
	if err != nil {
		return fmt.Errorf("follow claims below %s: %w", l.prefix, err)
	}
	return nil
}

func (l *Ledger) replace(all map[string][]byte) {
	taken := make(map[int]Claim, len(all))
	for key, value := range all {
		if n, ok := l.number(key); ok {
			taken[n] = decodeClaim(value)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = taken
}

func (l *Ledger) hear(n int, value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if value == nil {
		delete(l.taken, n)
		return
	}
	l.taken[n] = decodeClaim(value)
}

func (l *Ledger) number(key string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(key, l.prefix))
	return n, err == nil && n >= 0 && n < l.size
}

// Take claims n; taken is false when somebody holds it. The record decides,
// not what was heard of it.
func (l *Ledger) Take(n int) (taken bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeLocked(n)
}

func (l *Ledger) takeLocked(n int) (bool, error) {
	if n < 0 || n >= l.size {
		return false, fmt.Errorf("claim %d of %s: outside 0..%d", n, l.prefix, l.size-1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	mine := Claim{Holder: l.holder}
	created, err := l.records.CreateRecord(ctx, l.key(n), mine.encode())
	if err != nil {
		return false, fmt.Errorf("claim %d of %s: %w", n, l.prefix, err)
	}
	if created {
		l.taken[n] = mine
	} else if _, ok := l.taken[n]; !ok {
		l.taken[n] = Claim{} // by whom will be heard
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
		if _, ok := l.taken[n]; ok {
			continue
		}
		if taken, err := l.takeLocked(n); err != nil {
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

// Bind writes the owner of n into its claim, if it names none yet. It is no
// error if the claim has changed: whoever changed it knows more.
func (l *Ledger) Bind(n int, owner string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.taken[n]
	if !ok || old.Owner != "" || old.Holder == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	bound := Claim{Holder: old.Holder, Owner: owner}
	done, err := l.records.ReplaceRecord(ctx, l.key(n), old.encode(), bound.encode())
	if err != nil {
		return fmt.Errorf("name the owner of %d of %s: %w", n, l.prefix, err)
	}
	if done {
		l.taken[n] = bound
	}
	return nil
}

// Claim returns who holds n.
func (l *Ledger) Claim(n int) (c Claim, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, held = l.taken[n]
	return c, held
}

// Holder is this peer's name in claims.
func (l *Ledger) Holder() string { return l.holder }

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
		if l.Has(n) {
			continue
		}
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
