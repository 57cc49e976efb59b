package store

import "strings"

// Scope says how far a record travels.
type Scope byte

// The scopes.
const (
	// CellScope: to every peer of the cell.
	CellScope Scope = iota
	// HostScope: nowhere.
	HostScope
)

const hostPrefix = "/shoal/local/"

// MembersPrefix begins the keys of the records of the cell's members, one for
// each actor, its hexadecimal form of 16 digits at the end of the key.
const MembersPrefix = "/shoal/members/"

// ScopeOf returns the scope of the record under key. All that decides how far
// records travel asks here.
func ScopeOf(key string) Scope {
	if strings.HasPrefix(key, hostPrefix) {
		return HostScope
	}
	return CellScope
}
