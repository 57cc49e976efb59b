package netdp

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// heldLinks are the links of this daemon's programs, by the path of their pins.
// While one is held it outlives its pin, so a pin that somebody removes, or a
// bpffs that is unmounted, detaches nothing; after the daemon it is the pin that
// keeps the link. Datapath.attaching guards them.
type heldLinks map[string]link.Link

// hold replaces and closes what was held for the same path.
func (h heldLinks) hold(path string, l link.Link) {
	if old := h[path]; old != nil {
		_ = old.Close()
	}
	h[path] = l
}

func (h heldLinks) close() {
	for path, l := range h {
		_ = l.Close()
		delete(h, path)
	}
}

// repin puts a link that is attached into the bpffs once more.
func repin(l link.Link, path string) error {
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("inspect link: %w", err)
	}
	again, err := link.NewFromID(info.ID) // without the memory of its old pin
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	defer again.Close()
	if err := again.Pin(path); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// linkState is what became of a link since it was attached.
type linkState int

const (
	linkFine     linkState = iota
	linkUnpinned           // it works, and would end with this daemon
	linkDetached           // its program does not run any more
)

// stateOf looks at the link held for a path, whose program should be prog.
func (h heldLinks) stateOf(path string, prog *ebpf.Program) (linkState, error) {
	l := h[path]
	if l == nil {
		return linkDetached, nil
	}
	gone, err := linkGone(l)
	if err != nil || gone {
		return linkDetached, err
	}
	info, err := l.Info()
	if err != nil {
		return linkDetached, fmt.Errorf("inspect link: %w", err)
	}
	want, err := programID(prog)
	if err != nil || info.Program != want {
		return linkDetached, err
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return linkUnpinned, nil
	}
	return linkFine, nil
}

func programID(prog *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("inspect program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("inspect program: the kernel tells no number (Linux 4.13 or later does)")
	}
	return id, nil
}
