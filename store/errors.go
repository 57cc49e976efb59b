package store

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound says that there is no live record under the key at that version.
	ErrNotFound = errors.New("not found")
	// ErrExpired says that the version is older than the history still kept; list again.
	ErrExpired = errors.New("version is older than the history kept")
	// ErrFuture says that the version is later than anything this peer has seen.
	ErrFuture = errors.New("version is later than this peer's newest")
	// ErrClosed says that the database was closed.
	ErrClosed = errors.New("database is closed")
)

// ConflictError says that a write's expectation did not hold.
type ConflictError struct {
	Key      string
	Expected Version
	// Current is the record found instead; nil when there is none.
	Current *Entry
}

func (e *ConflictError) Error() string {
	var found Version
	if e.Current != nil {
		found = e.Current.Version
	}
	return fmt.Sprintf("update %s: expected version %s, found %s", e.Key, e.Expected, found)
}

// TooLargeError says that an object is over the limit.
type TooLargeError struct {
	Key         string
	Size, Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("update %s: the object has %d bytes, more than the limit of %d; split it into several", e.Key, e.Size, e.Limit)
}

// NoSpaceError says that writes are refused because the disk is nearly full.
// Reads go on, and writes again once space returns.
type NoSpaceError struct {
	Dir                  string
	FreeBytes, NeedBytes uint64
	// Cause is the failure met, where it was not the free space measured.
	Cause error
	// Opening: the database could not even be opened.
	Opening bool
}

func (e *NoSpaceError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("write to %s: %v; free some space, writes resume by themselves", e.Dir, e.Cause)
	}
	if e.Opening {
		return fmt.Sprintf("open %s: %d MiB are free on its file system, and opening takes %d MiB; free some space there, then start again",
			e.Dir, e.FreeBytes>>20, e.NeedBytes>>20)
	}
	return fmt.Sprintf("write to %s: only %d MiB free, %d MiB are kept in reserve; free some space, writes resume by themselves",
		e.Dir, e.FreeBytes>>20, e.NeedBytes>>20)
}

func (e *NoSpaceError) Unwrap() error { return e.Cause }

// LockedError says that another process has the directory open.
type LockedError struct {
	Dir string
	// PID is the holder, 0 when unknown.
	PID int
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("open %s: in use by %s; stop that daemon or choose another data directory", e.Dir, holder)
}
