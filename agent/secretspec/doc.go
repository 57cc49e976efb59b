// Package secretspec keeps secret values out of every file that is not on a
// tmpfs: containerd writes a container's specification to its database and to
// its bundle, and go-runc writes a command's process to the temporary
// directory, so none of these may hold an environment value that came from a
// Secret.
//
// The specification holds tokens instead. What they stand for is in a
// directory of the container's own on the agent's tmpfs, and the shim is told
// to run a link in that directory in place of the OCI runtime. The link leads
// to the shoal binary, where a C constructor, before the Go runtime starts,
// puts the values into a copy of the specification and becomes the runtime.
//
// Always true: a value is written nowhere but below the Vault's directory and
// to memory; a container without secret values runs its runtime directly; no
// message of this package contains a value.
//
// The pod runner calls it. Values are still in the environment of the
// container's own processes, and what a pod expands into a command's
// arguments is in the process list, as with any runtime.
package secretspec
