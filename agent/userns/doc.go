// Package userns gives pods user namespaces of their own (KEP-127): the ids
// they map to, the namespaces themselves, and mounts that show files with the
// owners the pod knows.
//
// The OCI runtime needs no idmapped mounts for that, only the kernel: mounts
// are cloned and mapped here (open_tree, mount_setattr, Linux 5.12) and given
// to the runtime as ordinary sources. A root file system is an overlay on
// mapped layers (Linux 5.19).
//
// Always true: ids of two pods on a host never overlap, also across a restart
// of the daemon; nothing on disk but a container's own writable layer has an
// owner from the range of a pod.
//
// The pod runner calls it and decides where things are mounted and when they
// go. It knows no pods but by uid.
package userns
