// Package policy turns NetworkPolicies into what the kernel enforces on one
// host, and explains verdicts.
//
// Index, which is pure, is told of namespaces, pods and policies one change at a
// time and answers with what changes in the kernel (package tables). Pods are
// known to rules by identity: all pods of a namespace whose labels differ only in
// keys that no policy asks for, and whose named ports that policies ask for are
// the same, have one. So rules grow with sets of labels and not with pods.
// The Controller follows informers and hands each change to the datapath.
// Explain judges by the API's objects themselves, for people, and shares with
// Index only the reading of specs.
//
// What always holds:
//   - Rules only allow. A pod that a policy selects in a direction is isolated in
//     it, and may do what the rules of all policies that select it add up to.
//   - Nothing an earlier daemon wrote is taken away before all objects are known.
//   - A pod gets no packet before its own policies are written, but for those of
//     the node. Until its object is known, it is held.
//   - An object that cannot be read is named in an error and harms no other.
//
// The daemon runs one Controller; `shoal policy test` calls Explain. Nothing here
// touches the kernel.
package policy
