package claims

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

// opTimeout bounds one claim; upstream's interface carries no context.
const opTimeout = 10 * time.Second

// book is the claims below one prefix of records, by what is claimed. Only the
// record decides who holds a key; taken is what was heard of records.
type book[K comparable] struct {
	records Records
	prefix  string // of the records' keys, ends in "/"
	holder  string // this peer, written into the record for people who read it
	// write and read turn a key into the end of its record's key and back.
	write func(K) string
	read  func(string) (K, bool)

	mu    sync.Mutex
	taken map[K]Claim // as far as heard of; guarded by mu
}

// open reads the claims that are there.
func (b *book[K]) open(ctx context.Context) error {
	found, err := b.records.ListRecords(ctx, b.prefix)
	if err != nil {
		return fmt.Errorf("read claims below %s: %w", b.prefix, err)
	}
	b.replace(found)
	return nil
}

// follow hears what other peers claim and release, until ctx ends. changed is
// called after each change, many after there may have been many.
func (b *book[K]) follow(ctx context.Context, changed func(K), many func()) error {
	err := b.records.FollowRecords(ctx, b.prefix, func(all map[string][]byte) {
		b.replace(all)
		many()
	}, func(key string, value []byte) {
		if k, ok := b.key(key); ok {
			b.hear(k, value)
			changed(k)
		}
	})
	if err != nil {
		return fmt.Errorf("follow claims below %s: %w", b.prefix, err)
	}
	return nil
}

func (b *book[K]) replace(all map[string][]byte) {
	taken := make(map[K]Claim, len(all))
	for key, value := range all {
		if k, ok := b.key(key); ok {
			taken[k] = decodeClaim(value)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = taken
}

func (b *book[K]) hear(k K, value []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if value == nil {
		delete(b.taken, k)
		return
	}
	b.taken[k] = decodeClaim(value)
}

func (b *book[K]) key(record string) (K, bool) { return b.read(record[len(b.prefix):]) }

func (b *book[K]) takeLocked(k K, owner string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	mine := Claim{Holder: b.holder, Owner: owner}
	created, err := b.records.CreateRecord(ctx, b.prefix+b.write(k), mine.encode())
	if err != nil {
		return false, fmt.Errorf("claim %v of %s: %w", k, b.prefix, err)
	}
	if created {
		b.taken[k] = mine
	} else if _, ok := b.taken[k]; !ok {
		b.taken[k] = Claim{} // by whom will be heard
	}
	return created, nil
}

// Free gives k back. Freeing what is free is no error.
func (b *book[K]) Free(k K) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if err := b.records.DeleteRecord(ctx, b.prefix+b.write(k)); err != nil {
		return fmt.Errorf("release %v of %s: %w", k, b.prefix, err)
	}
	delete(b.taken, k)
	return nil
}

// Bind writes the owner of k into its claim, if it names none yet. It is no
// error if the claim has changed: whoever changed it knows more.
func (b *book[K]) Bind(k K, owner string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.taken[k]
	if !ok || old.Owner != "" || old.Holder == "" {
		return nil
	}
	return b.replaceLocked(k, old, Claim{Holder: old.Holder, Owner: owner})
}

// replaceLocked writes the claim on k if that is still old.
func (b *book[K]) replaceLocked(k K, old, claim Claim) error {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	done, err := b.records.ReplaceRecord(ctx, b.prefix+b.write(k), old.encode(), claim.encode())
	if err != nil {
		return fmt.Errorf("name the owner of %v of %s: %w", k, b.prefix, err)
	}
	if done {
		b.taken[k] = claim
	}
	return nil
}

// Claim returns who holds k.
func (b *book[K]) Claim(k K) (c Claim, held bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, held = b.taken[k]
	return c, held
}

// Has reports whether k is taken.
func (b *book[K]) Has(k K) bool {
	_, held := b.Claim(k)
	return held
}

// Holder is this peer's name in claims.
func (b *book[K]) Holder() string { return b.holder }

// snapshot is a copy of all claims.
func (b *book[K]) snapshot() map[K]Claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.taken)
}
