package store

// For the tests that bring the API's schema, which imports this package.
var (
	MergeFields     = mergeFields
	StampFields     = stampFields
	CollapseStamps  = collapseStamps
	CanonicalStamps = canonicalStamps
	BoundStamps     = boundStamps
)

const MaxStamps = maxStamps
