// Package oom tells of the kernel's out-of-memory kills as they are logged: whom
// it took, and if the whole host had no memory left or only a control group had
// reached its limit.
//
// Always true: only what the kernel itself said counts. Records that programs
// write into its log carry another facility, and no program can forge that.
// Kills from before Watch was called are not told.
//
// The agent calls Watch once and makes an Event of each kill of a host without
// memory. What became of a container is not asked here: package cgroup counts
// the kills of its group.
package oom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// Log is the kernel's log.
const Log = "/dev/kmsg"

// maxRecord holds any record of the log with its escapes and its dictionary:
// the kernel's PRINTK_MESSAGE_MAX is 2048 bytes, and was 8192 before Linux 6.4. A
// smaller buffer gets EINVAL.
const maxRecord = 8192

// Kill is one process that the kernel ended for lack of memory.
type Kill struct {
	Process string // the name of its main thread, at most 15 bytes
	Pid     int    // in the host's first pid namespace
	Host    bool   // the host had no memory left, not just a control group
}

// Watch reads the kernel's log from its end and calls told for each kill, until
// ctx ends or the log cannot be read.
func Watch(ctx context.Context, told func(Kill)) error {
	log, err := os.OpenFile(Log, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("seek the end of the kernel's log: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = log.Close() })()
	record := make([]byte, maxRecord)
	for {
		n, err := log.Read(record)
		switch {
		case errors.Is(err, unix.EPIPE): // records were overwritten before they were read
			continue
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read the kernel's log: %w", err)
		}
		if kill, ok := parse(record[:n]); ok {
			told(kill)
		}
	}
}

// ofKill is the kernel's summary of a kill (dump_oom_victim in mm/oom_kill.c,
// Linux 5.0 and later), as a record of /dev/kmsg: the priority, of which facility
// 0 is the kernel's; sequence number, time, flags; the text.
var ofKill = regexp.MustCompile(`^[0-7],\d+,\d+,[^;]*;oom-kill:constraint=\w+,.*?,(global_oom|oom_memcg=.*?),task_memcg=.*,task=(.*),pid=(\d+),uid=\d+(?:\n|$)`)

// parse reads one record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg).
func parse(record []byte) (Kill, bool) {
	words := ofKill.FindSubmatch(record)
	if words == nil {
		return Kill{}, false
	}
	pid, err := strconv.Atoi(string(words[3]))
	if err != nil {
		return Kill{}, false
	}
	return Kill{Process: string(words[2]), Pid: pid, Host: string(words[1]) == "global_oom"}, true
}
