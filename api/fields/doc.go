// Package fields knows which fields an API object has: what a write changed,
// and how two states of one object written on two peers become one, field by
// field. It serves store.FieldMerger.
//
// An object is seen as a tree. Structs and maps branch by name, lists that the
// API declares associative branch by their items' keys, sets by their values;
// everything else, lists declared atomic among it, is a leaf. Custom resources
// have no schema all peers are sure to share, so their lists are leaves, but
// for what every object has (metadata) and status.conditions.
//
// A set of fields is a set of paths in that tree. A path stands for everything
// below it: a write that adds or removes a list item, or removes a struct,
// names the item or the struct itself. Joining two states then means, from the
// root down: where one side's write of a path is later, that side's subtree is
// taken whole; where both know the same write, or none, the branches are
// decided one by one. So a container that was removed on one side does not
// come back as the one field that was changed in it on the other, and two
// items made under one key on two sides are not mixed. Stamps being totally
// ordered, this is a lexicographic product of semilattices, and thereby
// commutative, associative and idempotent.
//
// The order of a list: every item has a position, stamped by the write that
// put it there, which is a field as any other. Items stand in the order of
// their positions' stamps and, under one stamp, as that write had them. A
// write that appends stamps what it appends; one that inserts or reorders
// stamps all that follows the first item it moved.
//
// Two fields follow rules of their own. metadata.generation is the greater of
// the two. An entry of metadata.managedFields is one field, named by manager,
// operation, API version and subresource; removing an entry is a write like
// any other, so it comes back only if a later write sets it anew.
//
// What always holds: equal inputs give equal bytes on every peer; nothing is
// joined that could not be written back without loss, that is an error and the
// store then keeps one side whole; no input makes the package panic. It has no
// clock, no goroutine and does no I/O.
package fields
