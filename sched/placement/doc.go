// Package placement decides on which node a pod runs, and says why when none
// will do.
//
// It is pure: no clock, no goroutine, no I/O. A Snapshot is told about nodes,
// pods and namespaces one change at a time and answers Place from what it was
// told. Snapshots that were told the same facts give the same placements, in
// whatever order and with whatever history they were told. The scheduler in
// package sched owns one Snapshot and guards it with its own lock; nothing
// here is safe for concurrent use.
//
// Semantics are those of the upstream scheduler's default filters, taken from
// k8s.io/component-helpers where that has them. What a pod asks for and this
// package cannot honour is refused by naming the field (see Unsupported),
// never ignored. Wishes are scored with upstream's weights: room and its
// balance, node preferences, taints, preferred pod affinity, soft spreading,
// images. Preempt says which pods of lower priority would have to go for one that
// finds no node; whoever deletes them promises it the node meanwhile (preempt.go,
// nominee.go).
//
// Speed comes from four things. The numbers of a node that every pod is
// compared with sit together in one row. Pods with equal needs share a Class,
// and a class remembers per node the verdict of the filters that depend on the
// node alone until that node changes. What pods mean for each other is kept as
// counts by domain, changed with every pod that comes or goes, so that no
// placement looks at other pods (counter.go, standing.go). And on a large fleet the search ends
// once enough feasible nodes were found, starting at a point derived from the
// pod's uid.
package placement
