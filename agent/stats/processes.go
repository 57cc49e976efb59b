package stats

import (
	"fmt"
	"os"
	"strings"
)

// processes are those of a container's group and what they have open.
type processes struct{ count, files, sockets int }

// maxProcessesRead bounds how many processes' open files are counted: a pod
// may have thousands. Beyond it descriptors are not told.
const maxProcessesRead = 256

func (r *Reader) processes(path string) *processes {
	ids, err := r.o.Cgroups.Processes(path)
	if err != nil {
		return nil
	}
	p := &processes{count: len(ids)}
	if len(ids) > maxProcessesRead {
		return p
	}
	for _, pid := range ids {
		p.open(pid)
	}
	return p
}

func (p *processes) open(pid int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	f, err := os.Open(dir)
	if err != nil {
		return // it has ended
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return
	}
	p.files += len(names)
	for _, name := range names {
		if target, err := os.Readlink(dir + "/" + name); err == nil && strings.HasPrefix(target, "socket:") {
			p.sockets++
		}
	}
}
