package store

import "testing"

// TestRunsWithoutOwnWrites: what a run numbers its writes from is not what it
// wrote. One that is refused everything, or writes only of this host, leaves
// nothing behind that the next start would miss.
func TestRunsWithoutOwnWrites(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, db *DB){
		"refused": func(t *testing.T, db *DB) {
			if _, err := db.Update(t.Context(), Update{Key: "/w/a", Expect: Absent, UID: "u"}); err == nil {
				t.Error("a second create went through")
			}
		},
		"releases nothing": func(t *testing.T, db *DB) {
			if _, err := db.submit(t.Context(), &pending{kind: releasing, done: make(chan outcome, 1)}); err != nil {
				t.Error(err)
			}
		},
		"of this host": func(t *testing.T, db *DB) {
			mustUpdate(t, db, Update{Key: hostPrefix + "w", Expect: Any, UID: "u"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open := func(run func(t *testing.T, db *DB)) Actor {
				db, err := Open(t.Context(), Options{Dir: dir})
				if err != nil {
					t.Fatal(err)
				}
				if n := db.Stats().LostWrites; n != 0 {
					t.Errorf("%d writes are said to be lost", n)
				}
				run(t, db)
				actor := db.Actor()
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				return actor
			}
			first := open(func(t *testing.T, db *DB) { mustUpdate(t, db, Update{Key: "/w/a", UID: "u"}) })
			open(run)
			if last := open(run); last != first {
				t.Errorf("actor %x was %x", last, first)
			}
		})
	}
}
