package fields

// What rules says of a field, keyed by the Go type that holds it and its name
// in JSON. Without a rule a struct and a map branch and a list is a leaf.
const (
	ruleAtomic  = "atomic"   // one leaf
	ruleSet     = "set"      // of scalars
	ruleKeys    = "keys:"    // a list of structs; the names of its key fields follow
	ruleContent = "content:" // such a list whose items are one value each
)
