//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"shoal/agent"
	"shoal/api"
	"shoal/netdp"
	"shoal/store"
)

// DrainSignal asks a daemon to stop its pods before it ends; SIGTERM asks it
// to end and leave them.
const DrainSignal = syscall.SIGUSR1

const stopPoll = 20 * time.Millisecond

// Stop ends the daemon on dataDir and waits until it has. With pods it stops
// the host's pods and takes their network away too, also when no daemon runs.
func Stop(ctx context.Context, dataDir string, pods bool, out io.Writer) error {
	if err := checkRoot(); err != nil {
		return err
	}
	dataDir = orDefault(dataDir, DefaultDataDir)
	pid, err := running(dataDir)
	if err != nil {
		return err
	}
	if pid == 0 && !pods {
		_, err := fmt.Fprintf(out, "no daemon runs on %s\n", dataDir)
		return err
	}
	if pid == 0 {
		return stopOrphans(ctx, dataDir, out)
	}
	signal := syscall.SIGTERM
	if pods {
		signal = DrainSignal
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("signal daemon %d: %w", pid, err)
	}
	for {
		if still, err := running(dataDir); err != nil {
			return err
		} else if still == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("daemon %d has not ended: %w; see its log, or end it with `kill -9 %d` (no data is lost by that)", pid, ctx.Err(), pid)
		case <-time.After(stopPoll):
		}
	}
	switch {
	case !pods:
		_, err = fmt.Fprintln(out, "shoal stopped; pods go on running (stop them too with --pods)")
	case hasNetwork(dataDir):
		// The daemon's log says why; trying again says it here.
		_, _ = fmt.Fprintln(out, "shoal stopped, but not all of its pods are gone; trying again without it")
		return stopOrphans(ctx, dataDir, out)
	default:
		_, err = fmt.Fprintln(out, "shoal stopped, and its pods with it")
	}
	return err
}

// hasNetwork tells whether a daemon left the network of pods: one that stopped with
// them takes it away last.
func hasNetwork(dataDir string) bool {
	c, err := Load(dataDir)
	if err == nil {
		c, err = c.complete()
	}
	if err != nil {
		return false
	}
	_, err = os.Stat(netStateDir(c))
	return err == nil
}

// stopOrphans removes the pods and the network that the daemon which last ran
// on dataDir left behind, without starting a daemon.
func stopOrphans(ctx context.Context, dataDir string, out io.Writer) error {
	config, err := Load(dataDir)
	if err != nil {
		if _, statErr := os.Stat(dataDir); os.IsNotExist(statErr) {
			_, err = fmt.Fprintf(out, "no daemon has run on %s\n", dataDir)
		}
		return err
	}
	if config, err = config.complete(); err != nil {
		return err
	}
	held, err := acquireLock(config.DataDir)
	if err != nil {
		return err
	}
	defer held.release()
	p := &peer{config: config, clock: store.SystemClock{}, log: newLogger(os.Stderr, config.LogFormat)}
	if err := errors.Join(p.clear(ctx), p.close()); err != nil {
		return fmt.Errorf("stop pods left by an earlier daemon: %w", err)
	}
	_, err = fmt.Fprintln(out, "pods left by an earlier daemon stopped")
	return err
}

// clear opens what pods live on, and nothing that would start one.
func (p *peer) clear(ctx context.Context) (err error) {
	c := p.config
	if id, err := loadIdentity(c.DataDir); err != nil {
		return err
	} else if id != nil {
		p.identity = *id
	}
	// Pods that stand still do not end.
	defer p.noLongerHold()
	// The store tells the pod range, which the datapath's routes go by.
	if p.db, err = c.openStore(ctx, store.Options{Tag: p.identity.Tag, Logger: p.log.With("part", "store"), Short: p.holdPods}); err != nil {
		return withTakers(ctx, err, c.DataDir, podLogDir)
	}
	p.releasePods()
	if p.podCIDR, err = api.ClaimPodCIDR(ctx, p.db, c.Name); err != nil {
		return err
	}
	// Without the range one route is left behind, and no pod.
	if p.ipv6, err = p.ipv6Range(ctx, "", false); err != nil {
		p.log.Warn("clear away the routes of IPv6", "error", err)
	}
	if p.containerd, err = ensureContainerd(ctx, c.Containerd, c.DataDir, p.log); err != nil {
		return err
	}
	if err := p.openCNI(); err != nil {
		return err
	}
	if p.datapath, err = netdp.Open(ctx, p.datapathOptions()); err != nil {
		return err
	}
	group, err := podGroup(c.CgroupRoot)
	if err != nil {
		return err
	}
	if err := agent.Clear(ctx, agent.Options{
		ContainerdSocket: c.Containerd, ContainerdNamespace: c.ContainerdNamespace, CgroupRoot: group, KeepCgroupRoot: group != defaultPodGroup,
		DataDir: c.DataDir, LogDir: podLogDir, Network: p.networkDriver(), Logger: p.log.With("part", "agent"),
	}); err != nil {
		return err
	}
	return p.removeNetwork()
}
