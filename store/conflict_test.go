package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// TestARefusalRestsOnWhatCanBeRead: who is told that a key exists, or is newer,
// finds it so, also when the writes that raced share one commit.
func TestARefusalRestsOnWhatCanBeRead(t *testing.T) {
	db := openTest(t, Options{})
	var writers sync.WaitGroup
	for round := range 100 {
		key := fmt.Sprintf("/registry/race/%d", round)
		for writer := range 8 {
			writers.Go(func() {
				_, err := db.Update(t.Context(), Update{Key: key, Value: []byte{byte(writer)}, UID: fmt.Sprint(writer)})
				var conflict *ConflictError
				if errors.As(err, &conflict) {
					checkConflict(t, db, conflict)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
	}
}

func checkConflict(t *testing.T, db *DB, conflict *ConflictError) {
	found, _, err := db.Get(conflict.Key, Latest)
	if err != nil {
		t.Errorf("get %s after a conflict: %v", conflict.Key, err)
		return
	}
	if conflict.Current == nil || conflict.Current.Version != found.Version || conflict.Current.UID != found.UID {
		t.Errorf("the conflict names %+v, found %+v", conflict.Current, found)
	}
}
