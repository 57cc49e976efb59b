package volume

import (
	"io/fs"
	"syscall"
)

// groupOf is a file's group, -1 if the file system has none.
func groupOf(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Gid)
	}
	return -1
}
