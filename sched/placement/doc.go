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
// never ignored. Preferences are wishes: those about nodes are scored, those
// about other pods (preferred pod affinity, ScheduleAnyway spreading) are not,
// beyond keeping the pods of one owner apart. There is no preemption here.
//
// Speed comes from three things. The numbers of a node that every pod is
// compared with sit together in one row. Pods with equal needs share a Class,
// and a class remembers per node the verdict of the filters that depend on the
// node alone until that node changes. And on a large fleet the search ends
// once enough feasible nodes were found, starting at a point derived from the
// pod's uid.
package placement
