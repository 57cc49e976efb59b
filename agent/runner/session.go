package runner

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killRounds bounds how often a session that forks while it is killed is looked
// through again.
const killRounds = 3

// killSession kills a command that was run in a container and all it has
// started: runc makes every command the leader of a session (setsid(2)), which
// its children inherit.
func killSession(leader int) {
	if leader <= 1 {
		return
	}
	for range killRounds {
		found := false
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range stats {
			pid, session := sessionOf(file)
			if session == leader && pid > 1 {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}

// sessionOf reads proc(5)'s stat: "pid (name) state ppid pgrp session …", where
// the name may hold anything.
func sessionOf(file string) (pid, session int) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, 0
	}
	text := string(data)
	head, _, _ := strings.Cut(text, " ")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const dead, at = "Z", 3
	if len(fields) <= at || fields[0] == dead {
		return 0, 0
	}
	pid, _ = strconv.Atoi(head)
	session, _ = strconv.Atoi(fields[at])
	return pid, session
}
