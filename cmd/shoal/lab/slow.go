//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// maxDelay keeps what is under way within the relay's queue.
	maxDelay = 10 * time.Second
	// relayWithin bounds the wait for a relay to take a link over.
	relayWithin = 20 * time.Second
)

// Shape is how bad a link is, in each of its two directions.
type Shape struct {
	Delay time.Duration `json:"delayNanoseconds"`
	// LossPercent is the share of frames that are dropped.
	LossPercent float64 `json:"lossPercent"`
}

func (s Shape) String() string {
	return fmt.Sprintf("%s %s%%", s.Delay, strconv.FormatFloat(s.LossPercent, 'f', -1, 64))
}

func (s Shape) check() error {
	switch {
	case s.Delay < 0 || s.Delay > maxDelay:
		return fmt.Errorf("--delay %s: want between 0 and %s", s.Delay, maxDelay)
	case !(s.LossPercent >= 0 && s.LossPercent <= 100):
		return fmt.Errorf("--loss %v: want between 0%% and 100%%", s.LossPercent)
	case s.Delay == 0 && s.LossPercent == 0:
		return errors.New("give --delay, --loss or both; `shoal lab heal` makes links fast again")
	}
	return nil
}

// Slow delays and loses what a peer sends and receives, to and from everybody.
func (l *Lab) Slow(ctx context.Context, n int, shape Shape) error {
	return l.change(ctx, func() error {
		p, err := l.state.peer(n)
		if err != nil {
			return err
		}
		if err := shape.check(); err != nil {
			return err
		}
		if err := l.unslow(ctx, p); err != nil {
			return err
		}
		p.Slow = &shape
		if err := l.slow(ctx, p); err != nil {
			p.Slow = nil
			return errors.Join(err, l.unslow(ctx, p), l.filter(p))
		}
		return nil
	})
}

func (l *Lab) relayGroup(n int) string { return filepath.Join(l.Group(), "relay-"+strconv.Itoa(n)) }

// slow puts a relay into a peer's link, as its record says: see relay.go. The
// kernel's netem would do the same, and is left out of many kernels.
func (l *Lab) slow(ctx context.Context, p *peer) error {
	if !p.Init.alive() || p.Slow == nil {
		return nil
	}
	if err := l.filter(p); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(l.hostDir(p), "relay.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open relay log: %w", err)
	}
	defer func() { _ = log.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = read.Close() }()
	cmd := exec.Command(l.state.Shoal, "lab", "relay", l.port(p.Number), l.slowTap(p.Number), l.bridge(),
		"--delay", p.Slow.Delay.String(), "--loss", strconv.FormatFloat(p.Slow.LossPercent, 'f', -1, 64)+"%")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = write, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = l.groups.spawn(cmd, l.relayGroup(p.Number), 0)
	_ = write.Close()
	if err != nil {
		return fmt.Errorf("start relay: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if this program is still there
	ctx, cancel := context.WithTimeout(ctx, relayWithin)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })()
	if line, err := bufio.NewReader(read).ReadString('\n'); strings.TrimSpace(line) != relayReady {
		return fmt.Errorf("slow %s: the relay did not start: %w; see %s", p.Name, because(ctx, err), log.Name())
	}
	return nil
}

// unslow takes a relay away and connects the link to the bridge again.
func (l *Lab) unslow(ctx context.Context, p *peer) error {
	if err := l.groups.remove(ctx, l.relayGroup(p.Number)); err != nil {
		return err
	}
	if !p.Init.alive() {
		return nil
	}
	link, err := netlink.LinkByName(l.port(p.Number))
	if err != nil {
		return fmt.Errorf("find link of %s: %w", p.Name, err)
	}
	bridge, err := netlink.LinkByName(l.bridge())
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	if link.Attrs().MasterIndex == bridge.Attrs().Index {
		return nil
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("connect %s to the bridge: %w", p.Name, err)
	}
	return nil
}
