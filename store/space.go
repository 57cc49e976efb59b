package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// spaceGuard keeps badger from ever meeting a full disk. Badger writes through
// memory maps of sparse files, where a full disk is no error but a SIGBUS that
// kills the process. So
//   - writes are refused while less than minFree bytes are free, which leaves
//     room for flushing and compacting what was already accepted;
//   - the log file of the next memtable exists, with its blocks allocated,
//     before badger needs it;
//   - a ballast file holds the space that opening the database takes, and is
//     given up when the disk is found full at start.
type spaceGuard struct {
	dir     string
	minFree uint64
	log     *slog.Logger
	// refusing: the last check refused writes.
	refusing atomic.Bool

	// next is the file badger will make its next memtable's log; nil when the
	// file system cannot allocate ahead. It and nextID are used by Open and
	// then by the committer alone.
	next   *os.File
	nextID int
	// used is at least what the current memtable has taken, and last what the last
	// commit took of it; allocated: its log has its blocks. They are used by Open
	// and then by the committer alone.
	used, last int
	allocated  bool
	// nextAllocated is the same of next.
	nextAllocated bool

	// mu guards the ballast file against the committer and the maintenance.
	mu sync.Mutex
}

const (
	ballastFile = "ballast"
	// maxBallastBytes covers replaying and flushing all memtables and starting
	// new logs.
	maxBallastBytes = 16 * memTableBytes
	// startBytes is the least that opening may take: each memtable as a table,
	// and a new log.
	startBytes = (memTables+1)*tableBytes + logBytes
	// logBytes is how far badger writes into a memtable's log: until it is
	// over memTableBytes, and then one more batch.
	logBytes = memTableBytes + memTableBytes/4
)

// newSpaceGuard prepares dir for opening; opened must be called afterwards. short
// is Options.Short.
func newSpaceGuard(dir string, minFree uint64, log *slog.Logger, short func(free uint64)) (*spaceGuard, error) {
	g := &spaceGuard{dir: dir, minFree: minFree, log: log}
	if err := g.removeEmptyLogs(); err != nil {
		return nil, err
	}
	free, err := g.free()
	if err != nil {
		return nil, err
	}
	if free < minFree && short != nil {
		short(free)
	}
	err = g.makeWay()
	if full := (*NoSpaceError)(nil); errors.As(err, &full) {
		full.Opening = true
	}
	return g, err
}

// makeWay sees to the space that opening or closing takes, at the cost of the
// ballast if need be.
func (g *spaceGuard) makeWay() error {
	free, err := g.free()
	if err != nil {
		return err
	}
	if free >= g.ballastBytes() {
		return nil
	}
	g.dropBallast()
	if free, err = g.free(); err != nil {
		return err
	}
	if free < startBytes {
		return &NoSpaceError{Dir: g.dir, FreeBytes: free, NeedBytes: startBytes}
	}
	return nil
}

func (g *spaceGuard) ballastBytes() uint64 { return min(maxBallastBytes, g.minFree/2) }

// removeEmptyLogs removes logs that nothing was written to: ours, allocated
// ahead, and those badger had truncated but not yet unlinked when it was
// killed. Badger would refuse to open over either.
func (g *spaceGuard) removeEmptyLogs() error {
	logs, err := g.memtableLogs()
	if err != nil {
		return err
	}
	for id, size := range logs {
		if size > 0 {
			continue
		}
		if err := os.Remove(g.logPath(id)); err != nil {
			return fmt.Errorf("remove empty log: %w", err)
		}
	}
	return nil
}

// memtableLogs returns the size of every memtable log, by number.
func (g *spaceGuard) memtableLogs() (map[int]int64, error) {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return nil, fmt.Errorf("list data directory: %w", err)
	}
	logs := make(map[int]int64)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".mem")
		if !ok {
			continue
		}
		id, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // flushed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list data directory: %w", err)
		}
		logs[id] = info.Size()
	}
	return logs, nil
}

// logPath follows badger's naming of memtable logs.
func (g *spaceGuard) logPath(id int) string {
	return filepath.Join(g.dir, fmt.Sprintf("%05d.mem", id))
}

// opened allocates the current log and the next one, now that badger has
// chosen the current one's number.
func (g *spaceGuard) opened() error {
	logs, err := g.memtableLogs()
	if err != nil {
		return err
	}
	for id := range logs {
		g.nextID = max(g.nextID, id+1)
	}
	if g.nextID == 0 {
		return fmt.Errorf("open %s: badger made no memtable log", g.dir)
	}
	current, err := os.OpenFile(g.logPath(g.nextID-1), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("allocate log: %w", err)
	}
	defer current.Close()
	if err = allocate(current, logBytes); err != nil && !cannotAllocate(err) && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("allocate log: %w", err)
	}
	g.allocated, g.used = err == nil, memTableUsedAtOpen
	g.restoreBallast()
	return nil
}

// check says whether a batch of so many bytes may be written.
func (g *spaceGuard) check(bytes int) error {
	free, err := g.free()
	if err != nil {
		return err
	}
	if need := g.minFree + uint64(bytes); free < need {
		if free < g.minFree/2 {
			g.dropBallast()
		}
		return g.refuse(&NoSpaceError{Dir: g.dir, FreeBytes: free, NeedBytes: need})
	}
	if err := g.allocateNext(); err != nil {
		return g.refuse(g.explain(err))
	}
	if g.refusing.CompareAndSwap(true, false) {
		g.log.Info("disk has space again, writes resume", "dir", g.dir, "freeBytes", free)
	}
	return nil
}

func (g *spaceGuard) refuse(err error) error {
	if g.refusing.CompareAndSwap(false, true) {
		g.log.Error("disk is nearly full, writes are refused", "dir", g.dir, "error", err)
	}
	return err
}

// allocateNext makes sure that the file badger will rotate to has its blocks.
// Badger takes a file of size zero for a new one.
func (g *spaceGuard) allocateNext() error {
	if waiting, err := g.nextWaits(); err != nil || waiting {
		return err
	}
	file, err := os.OpenFile(g.logPath(g.nextID), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("allocate log: %w", err)
	}
	err = allocate(file, logBytes)
	g.nextAllocated = err == nil
	if err != nil && !cannotAllocate(err) {
		file.Close()
		os.Remove(g.logPath(g.nextID))
		return fmt.Errorf("allocate log: %w", err)
	}
	g.next = file
	return syncDir(g.dir)
}

// nextWaits reports whether the file allocated ahead still waits for badger, and
// takes note when badger has moved on to it.
func (g *spaceGuard) nextWaits() (bool, error) {
	if g.next == nil {
		return false, nil
	}
	waiting, err := unused(g.next)
	if err != nil {
		return false, fmt.Errorf("allocate log: %w", err)
	}
	if waiting {
		return true, nil
	}
	g.next.Close()
	g.next = nil
	g.nextID++
	g.used, g.allocated = g.last, g.nextAllocated
	return false, nil
}

// unused reports whether badger has not taken file: it gives it a size at once,
// and unlinks it when done with it.
func unused(file *os.File) (bool, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &st); err != nil {
		return false, fmt.Errorf("inspect %s: %w", file.Name(), err)
	}
	return st.Size == 0 && st.Nlink > 0, nil
}

// allocate gives file its blocks without changing its size.
func allocate(file *os.File, bytes int64) error {
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE
	for {
		err := syscall.Fallocate(int(file.Fd()), keepSize, 0, bytes)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// cannotAllocate: some file systems have no fallocate; minFree alone must do.
func cannotAllocate(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}

// explain turns a full-disk error into the typed one.
func (g *spaceGuard) explain(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	free, _ := g.free()
	return &NoSpaceError{Dir: g.dir, FreeBytes: free, NeedBytes: g.minFree, Cause: err}
}

// free returns the bytes an unprivileged process may still write.
func (g *spaceGuard) free() (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(g.dir, &st); err != nil {
		return 0, fmt.Errorf("measure free space of %s: %w", g.dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func (g *spaceGuard) dropBallast() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if os.Remove(filepath.Join(g.dir, ballastFile)) == nil {
		g.log.Warn("disk is nearly full, gave up the ballast file", "dir", g.dir, "bytes", g.ballastBytes())
	}
}

// restoreBallast takes the ballast again when there is plenty of space.
func (g *spaceGuard) restoreBallast() {
	g.mu.Lock()
	defer g.mu.Unlock()
	path := filepath.Join(g.dir, ballastFile)
	if _, err := os.Stat(path); err == nil {
		return
	}
	if free, err := g.free(); err != nil || free < g.minFree+2*g.ballastBytes() {
		return
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	if err := allocate(file, int64(g.ballastBytes())); err != nil {
		os.Remove(path)
	}
}

// close removes the log allocated ahead, as nobody will write to it.
func (g *spaceGuard) close() error {
	if g.next == nil {
		return nil
	}
	defer g.next.Close()
	if waiting, err := unused(g.next); err != nil || !waiting {
		return err
	}
	return os.Remove(g.next.Name())
}
