// Package clitest runs the command line against the real API server, over the
// real store, as scripts.
//
// It holds tests only. It is apart from package cli so that cli's own tests,
// which need no server, do not link one. There is no controller, scheduler or
// agent here: what needs them is tested in test/e2e with a whole daemon.
package clitest
