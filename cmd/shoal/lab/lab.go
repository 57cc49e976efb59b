//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

const (
	// DefaultDir is where a lab lives if nobody says otherwise.
	DefaultDir = "/var/lib/shoal-lab"
	// DefaultNodes is enough for a majority and a minority.
	DefaultNodes = 3
	// MaxNodes is what one machine can be expected to hold: some 20 GB.
	MaxNodes = 50
	// DefaultMemory lets five peers fit in 2 GB.
	DefaultMemory = 400 << 20
	// minMemory is about what a daemon and its containerd need to come up.
	minMemory = 200 << 20
	// startsAtOnce bounds how many daemons load their schemas at the same time.
	startsAtOnce = 4
)

// Errors a caller may branch on.
var (
	ErrNoLab  = errors.New("there is no lab")
	ErrExists = errors.New("there is a lab already")
)

// Options are what a lab is made of. The zero value of a field means its default.
type Options struct {
	Dir    string
	Nodes  int
	Memory int64 // bytes, for each peer and all it runs
	Subnet netip.Prefix
	// Shoal is the binary that peers run; the running program's by default.
	Shoal string
	// Separate makes every peer a cell of its own, as if nobody had joined them.
	Separate bool
	// StartFlags are flags of `shoal start` for every peer and every start.
	StartFlags []string
	// Progress gets a line per step; nil is none.
	Progress io.Writer
}

// Lab is a lab that is up. Its methods may be called from several goroutines
// and several programs at once; those that change something wait for each other.
type Lab struct {
	Dir string

	id     string
	groups hierarchies
	mu     sync.Mutex // guards state
	state  *state     // as the change under way sees it; everything else reads the record
}

// Up makes a lab and returns once every peer's API answers and its node is
// ready. What an earlier lab left when the machine went down is cleared first.
// When it fails, nothing is left of what it made.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := complete(&o); err != nil {
		return nil, err
	}
	l, err := at(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make lab directory: %w", err)
	}
	release, err := lock(ctx, l.Dir)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := l.clearRemains(ctx); err != nil {
		return nil, err
	}
	l.state = &state{Shoal: o.Shoal, Subnet: o.Subnet, Memory: o.Memory, Separate: o.Separate, StartFlags: o.StartFlags}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.remove(ctx))
		}
	}()
	if err := l.save(); err != nil {
		return nil, err
	}
	if !l.state.Subnet.IsValid() {
		if l.state.Subnet, err = freeSubnet(l.id); err != nil {
			return nil, err
		}
	}
	for n := 1; n <= o.Nodes; n++ {
		l.state.Peers = append(l.state.Peers, &peer{Number: n, Name: fmt.Sprintf("lab-%d", n), Address: l.state.address(n), Killed: true})
	}
	if err := l.addBridge(); err != nil {
		return nil, err
	}
	progress := newSteps(o.Progress)
	if err := l.startAll(ctx, progress); err != nil {
		return nil, err
	}
	l.state.Complete = true
	return l, l.save()
}

// startAll starts the first peer, and then the others, which join it.
func (l *Lab) startAll(ctx context.Context, progress *steps) error {
	first, others := l.state.Peers[:1], l.state.Peers[1:]
	if err := l.boot(ctx, first[0], nil, progress); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startsAtOnce)
	for _, p := range others {
		group.Go(func() error { return l.boot(ctx, p, nil, progress) })
	}
	return group.Wait()
}

func complete(o *Options) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if o.Nodes == 0 {
		o.Nodes = DefaultNodes
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return fmt.Errorf("--nodes %d: want between 1 and %d", o.Nodes, MaxNodes)
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Memory < minMemory {
		return fmt.Errorf("--memory %d: a peer needs %d MiB at least", o.Memory, minMemory>>20)
	}
	if o.Subnet.IsValid() {
		if err := checkSubnet(o.Subnet); err != nil {
			return err
		}
	}
	if err := checkFlags(o.StartFlags); err != nil {
		return err
	}
	if o.Shoal == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		o.Shoal = self
	}
	for _, tool := range []string{"containerd", "runc", "mount", "sleep", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("a lab needs %s, which is not installed (%w); install it with `apt-get install containerd runc util-linux`", tool, err)
		}
	}
	return checkBinary(o.Shoal)
}

var errNotRoot = errors.New("a lab must be made by root: it makes network namespaces, mounts and control groups; use sudo")

// hidden are the directories a host has of its own, where the machine's files
// cannot be seen.
var hidden = []string{"/run/", "/var/log/", "/var/lib/"}

func checkBinary(path string) error {
	if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
		return fmt.Errorf("find the shoal binary: %s is not a program (%w); build it with `make build`", path, err)
	}
	for _, dir := range hidden {
		if strings.HasPrefix(path, dir) {
			return fmt.Errorf("the shoal binary is %s, and a lab's hosts have a %s of their own; copy it to /usr/local/bin", path, filepath.Clean(dir))
		}
	}
	return nil
}

// at names a lab by its directory, whether it exists or not.
func at(dir string) (*Lab, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	groups, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir, id: identify(dir), groups: groups}, nil
}

// Open returns the lab in dir; an error that is ErrNoLab if there is none.
func Open(dir string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	l, err := at(dir)
	if err != nil {
		return nil, err
	}
	s, err := l.read()
	if err == nil && !s.Complete {
		err = fmt.Errorf("%w in %s yet: an `up` makes it, or was ended before it had; `sudo shoal lab up` makes it anew", ErrNoLab, l.Dir)
	}
	return l, err
}

// clearRemains makes sure that there is no lab, and takes away what is left of
// one that a crash of the machine or of an `up` ended.
func (l *Lab) clearRemains(ctx context.Context) error {
	old, err := l.read()
	if err == nil && old.Complete && l.hasBridge() {
		return fmt.Errorf("%w in %s, of %d peers; take it down with `sudo shoal lab down`, or give another --dir", ErrExists, l.Dir, len(old.Peers))
	}
	if errors.Is(err, ErrNoLab) {
		entries, err := os.ReadDir(l.Dir)
		if err != nil {
			return fmt.Errorf("read lab directory: %w", err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s holds other things than a lab; give an empty or a new directory with --dir", l.Dir)
		}
	}
	if err := l.release(ctx); err != nil {
		return err
	}
	return removeEntries(l.Dir)
}

// hasBridge tells a lab that is up from one that was when the machine went down.
func (l *Lab) hasBridge() bool {
	_, err := netlink.LinkByName(l.bridge())
	return err == nil
}

// Down takes the lab in dir away, or whatever is left of one.
func Down(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	l, err := at(dir)
	if err != nil {
		return err
	}
	release, err := lock(ctx, l.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return l.release(ctx)
	}
	if err != nil {
		return err
	}
	defer release()
	if _, err := l.read(); errors.Is(err, ErrNoLab) {
		return l.release(ctx) // somebody's directory, which is not ours to touch
	}
	return l.remove(ctx)
}

// Down takes the lab away.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx, l.Dir) }

// release ends everything of the lab that runs and gives back what the kernel
// holds for it. It goes by names only.
func (l *Lab) release(ctx context.Context) error {
	return errors.Join(l.groups.remove(ctx, l.Group()), l.unplug(ctx, l.isLink))
}

func (l *Lab) remove(ctx context.Context) error {
	if err := l.release(ctx); err != nil {
		return err
	}
	return removeDir(l.Dir)
}

// change runs one change of the lab under its lock, with its current state, and
// records what came of it.
func (l *Lab) change(ctx context.Context, what func() error) error {
	release, err := lock(ctx, l.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := l.read() // says that there is no lab
		return err
	}
	if err != nil {
		return err
	}
	defer release()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state, err = l.read(); err != nil {
		return err
	}
	if !l.hasBridge() {
		return fmt.Errorf("the lab in %s did not survive the machine's restart; make it anew with `sudo shoal lab up`", l.Dir)
	}
	return errors.Join(what(), l.save())
}

// Group is the control group of the whole lab, below the root of every
// hierarchy: every process of the lab is in it, and none of anybody else.
func (l *Lab) Group() string { return "/shoal-lab-" + l.id }
