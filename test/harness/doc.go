// Package harness gives end-to-end tests and benchmarks a machine of their own:
// a private network and mount namespace, a containerd, a shoal daemon started
// from bin/shoal as a user would, stock clients, and a second "machine" behind a
// veth.
//
// What always holds: nothing here touches the host's links, routes, firewall,
// mounts, /run or /var/log, and when Main returns every process started inside has ended and
// every cgroup, mount and directory made is gone, however the tests ended.
//
// It is used by test/e2e and test/bench only. It holds no assertions: it
// returns errors, and the caller decides what they mean.
package harness
