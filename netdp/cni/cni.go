package cni

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/driver"
	"shoal/netdp/netns"
	"shoal/netdp/podfile"
)

const (
	// DefaultTimeout bounds what a network's plugins may take together to add or
	// remove a pod. The kubelet gives its runtimes as long.
	DefaultTimeout = 2 * time.Minute
	// defaultCheckTimeout bounds CHECK and STATUS, which only look.
	defaultCheckTimeout = 10 * time.Second
	// runsPerCPU bounds the pods whose plugins run at once.
	runsPerCPU = 4
	// ifName is the interface that a pod has, in every runtime of Kubernetes.
	ifName = "eth0"
	// checkFailed is the reason of Warnings about an earlier pod's network.
	checkFailed = "NetworkCheckFailed"
)

// Options say where plugins and state are.
type Options struct {
	// ConfDir has the network configurations, of which the first counts; BinDirs
	// have the plugins.
	ConfDir string
	BinDirs []string
	// StateDir holds records of pods and cached results. It is on a disk: what
	// IPAM plugins note of a pod outlives a reboot too.
	StateDir string
	// NetNSDir holds the pins of pods' namespaces.
	NetNSDir string
	// NetNS is the path of the host's network namespace, in which plugins run;
	// empty: the process's own.
	NetNS string
	// PodCIDRs are this host's ranges, for plugins with the capability ipRanges.
	PodCIDRs []netip.Prefix
	// Service names the service that has an address, or whose range that is; empty:
	// none. It may be nil.
	Service func(netip.Addr) string
	// Timeout replaces DefaultTimeout when it is not zero.
	Timeout time.Duration
	// CheckTimeout bounds looking whether plugins are ready, or a pod has what they
	// gave it; 0 is a default.
	CheckTimeout time.Duration
	Logger       *slog.Logger
}

// Driver implements driver.Driver by CNI plugins.
type Driver struct {
	o       Options
	lib     *libcni.CNIConfig
	records podfile.Store[record]
	boot    string
	runs    chan struct{} // has room for those that may run

	mu    sync.Mutex        // guards all below
	pods  map[string]*entry // by uid
	taken map[netip.Addr]holder
}

// entry's mutex is held while plugins work on its pod.
type entry struct {
	mu     sync.Mutex
	record record // valid while listed in pods
	dead   bool   // no longer listed
}

// Open reads what earlier daemons attached, and ends plugins that still run of one
// that was killed. None is started, and neither directory needs to be there yet.
func Open(o Options) (*Driver, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.CheckTimeout == 0 {
		o.CheckTimeout = defaultCheckTimeout
	}
	boot, err := podfile.BootID()
	if err == nil {
		err = endOrphans(o.StateDir, o.Logger)
	}
	if err != nil {
		return nil, fmt.Errorf("open CNI driver: %w", err)
	}
	d := &Driver{
		o: o, boot: boot, pods: map[string]*entry{}, taken: map[netip.Addr]holder{},
		lib:     libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.StateDir, &executor{netns: o.NetNS, state: o.StateDir, log: o.Logger}),
		records: recordsIn(o.StateDir),
		runs:    make(chan struct{}, runsPerCPU*runtime.GOMAXPROCS(0)),
	}
	loaded, err := d.records.Load()
	if err = errors.Join(err, podfile.DropUnfinished(d.records.Dir)); err != nil {
		return nil, fmt.Errorf("open CNI driver: %w", err)
	}
	for _, rec := range loaded {
		d.pods[rec.UID] = &entry{record: rec}
		if d.whole(rec) {
			d.note(rec)
		}
	}
	return d, nil
}

func (d *Driver) pin(uid string) string { return filepath.Join(d.o.NetNSDir, uid) }

// whole reports whether a pod's network was made and not lost with a reboot.
func (d *Driver) whole(rec record) bool {
	return rec.Made && rec.Boot == d.boot && netns.Pinned(d.pin(rec.UID))
}

// Attach implements driver.Driver.
func (d *Driver) Attach(ctx context.Context, pod driver.Pod) (driver.Attachment, error) {
	if err := podfile.CheckUID(pod.UID); err != nil {
		return driver.Attachment{}, err
	}
	e := d.claim(pod.UID)
	defer e.mu.Unlock()
	if d.whole(e.record) {
		return d.attachment(e.record, d.check(ctx, e.record)), nil
	}
	if e.record.UID != "" {
		// Left half-made by a daemon that was killed, or by a reboot.
		if err := d.clear(ctx, e.record); err != nil {
			return driver.Attachment{}, err
		}
	}
	rec, err := d.begin(ctx, pod)
	if err == nil {
		e.record = rec
		err = d.add(ctx, &e.record, pod.NetNS)
	}
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, d.forget(ctx, e))
	}
	if err != nil {
		return driver.Attachment{}, err
	}
	return d.attachment(e.record, nil), nil
}

func (d *Driver) attachment(rec record, warnings []driver.Warning) driver.Attachment {
	return driver.Attachment{NetNS: d.pin(rec.UID), Addresses: rec.Addresses, Warnings: warnings}
}

// claim returns the pod's entry, locked; its record is empty for a new one.
func (d *Driver) claim(uid string) *entry {
	for {
		d.mu.Lock()
		e := d.pods[uid]
		if e == nil {
			e = &entry{}
			d.pods[uid] = e
		}
		d.mu.Unlock()
		e.mu.Lock()
		if !e.dead {
			return e
		}
		e.mu.Unlock() // detached while we waited
	}
}

// begin writes down what the plugins will be asked for.
func (d *Driver) begin(ctx context.Context, pod driver.Pod) (record, error) {
	list, err := d.o.network()
	if err != nil {
		return record{}, err
	}
	config, err := inlined(list.NetworkConfigList)
	if err != nil {
		return record{}, fmt.Errorf("read %s: %w", list.path, err)
	}
	capabilities, err := d.capabilities(ctx, pod)
	if err != nil {
		return record{}, err
	}
	rec := record{
		UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Sandbox: newSandboxID(),
		Boot: d.boot, Config: config, Capabilities: capabilities,
	}
	return rec, d.records.Save(rec)
}

// newSandboxID is what plugins know a pod's network by: one of its own for each
// try, in the form of runtimes' container ids.
func newSandboxID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// add makes the namespace and has the plugins fill it.
func (d *Driver) add(ctx context.Context, rec *record, given string) error {
	if err := os.MkdirAll(d.o.NetNSDir, 0o711); err != nil {
		return fmt.Errorf("create directory of namespaces: %w", err)
	}
	if err := netns.Create(given, d.pin(rec.UID), raiseLoopback); err != nil {
		return err
	}
	list, err := libcni.NetworkConfFromBytes(rec.Config)
	if err != nil {
		return err
	}
	err = d.run(ctx, d.o.Timeout, func(ctx context.Context) error {
		result, err := d.lib.AddNetworkList(ctx, list, d.runtimeConf(*rec))
		if err != nil {
			return fmt.Errorf("CNI network %q: %w", list.Name, err)
		}
		if rec.Addresses, err = addressesOf(result); err != nil {
			return err
		}
		if err := d.take(*rec); err != nil {
			return fmt.Errorf("CNI network %q: %w", list.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rec.Made = true
	return d.records.Save(*rec)
}

// raiseLoopback runs on a thread in the pod's namespace. Runtimes of Kubernetes do
// this for every network.
func raiseLoopback(*os.File) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in pod: %w", err)
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	if err == nil {
		err = nl.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("raise loopback in pod: %w", err)
	}
	return nil
}

// run waits for a place among the plugins that run, and bounds f.
func (d *Driver) run(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	select {
	case d.runs <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.runs }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// check asks the plugins whether a pod that runs still has what they gave it. What
// they miss is no reason to end it.
func (d *Driver) check(ctx context.Context, rec record) []driver.Warning {
	list, err := libcni.NetworkConfFromBytes(rec.Config)
	if err == nil && list.CNIVersion == "" || err == nil && list.DisableCheck {
		return nil
	}
	if err == nil {
		err = d.run(ctx, d.o.CheckTimeout, func(ctx context.Context) error {
			return d.lib.CheckNetworkList(ctx, list, d.runtimeConf(rec))
		})
	}
	if err == nil || errors.Is(err, libcni.ErrorCheckNotSupp) || ctx.Err() != nil {
		return nil
	}
	return []driver.Warning{{Reason: checkFailed, Message: "the pod's CNI plugins miss something of its network; it gets it anew when it is made again: " + err.Error()}}
}

// Detach implements driver.Driver.
func (d *Driver) Detach(ctx context.Context, podUID string) error {
	d.mu.Lock()
	e := d.pods[podUID]
	d.mu.Unlock()
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return nil
	}
	return d.forget(ctx, e)
}

// forget takes away all that an entry has, and then the entry, which is locked.
func (d *Driver) forget(ctx context.Context, e *entry) error {
	uid := e.record.UID
	if uid != "" {
		if err := d.clear(ctx, e.record); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e.dead = true
	for uid, listed := range d.pods {
		if listed == e {
			delete(d.pods, uid)
		}
	}
	return nil
}

// clear has the plugins take everything back, and removes namespace and record.
func (d *Driver) clear(ctx context.Context, rec record) error {
	list, err := libcni.NetworkConfFromBytes(rec.Config)
	if err != nil {
		return err
	}
	err = d.run(ctx, d.o.Timeout, func(ctx context.Context) error {
		return d.lib.DelNetworkList(ctx, list, d.runtimeConf(rec))
	})
	if err != nil {
		return fmt.Errorf("take pod %s/%s from CNI network %q: %w", rec.Namespace, rec.Name, list.Name, err)
	}
	d.giveBack(rec)
	return errors.Join(netns.Unpin(d.pin(rec.UID)), d.records.Remove(rec.UID))
}

// Attached implements driver.Driver.
func (d *Driver) Attached(context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	uids := make([]string, 0, len(d.pods))
	for uid := range d.pods {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}

// Network is what a pod has.
type Network struct {
	UID, NetNS string
	Addresses  []netip.Addr
}

// Networks are those of earlier daemons that are whole. Call it before the first
// Attach.
func (d *Driver) Networks() []Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Network
	for uid, e := range d.pods {
		if d.whole(e.record) {
			out = append(out, Network{uid, d.pin(uid), e.record.Addresses})
		}
	}
	return out
}

// Remove takes away the directories of a driver that has no pods.
func (d *Driver) Remove() error {
	if uids, _ := d.Attached(context.Background()); len(uids) > 0 {
		return fmt.Errorf("remove CNI driver: %d pods still have a network, among them %s", len(uids), uids[0])
	}
	if err := errors.Join(os.RemoveAll(d.o.StateDir), os.RemoveAll(d.o.NetNSDir)); err != nil {
		return fmt.Errorf("remove CNI driver: %w", err)
	}
	return nil
}
