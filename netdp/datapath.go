package netdp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
	"shoal/netdp/wireguard"
)

// Datapath is the loaded datapath of one host.
type Datapath struct {
	opts  Options
	log   *slog.Logger
	lock  *os.File
	host  namespace
	nl    *netlink.Handle // in the host's namespace
	pins  pins
	specs map[string]*ebpf.MapSpec
	set   *mapSet
	maps  map[string]*ebpf.Map // of set
	progs map[string]*ebpf.Program
	table *table
	pods  *podSet

	routed routedPods // of other drivers

	// Of the programs: 1 while pods' packets are encrypted, and while the stack has to
	// see the tunnel's.
	encrypted, tunnelByStack, gather *ebpf.Variable
	nodeIPv6                         *ebpf.Variable // this host's address there

	// Of the device that encrypts, guarded by hosts.setting. Without one wire is nil.
	wire      *wireguard.Device
	wireKey   wireguard.Key            // its own
	wireHosts map[wireguard.Key]string // whose keys it has

	kernelHasIPv6 bool // it may be switched off all the same; see checkIPv6
	own           atomic.Pointer[ownAddresses]

	policyMu   sync.Mutex // guards the two below
	policy     *policyMaps
	podWatcher tables.PodWatcher // nil: nobody enforces policy yet

	destroyer destroyer
	reaper    reaper
	flows     flowHub
	fills     fills
	noRoom    withoutRoom

	// The words of the programs' enums drop_reason and record_kind.
	dropNames, kindNames []string

	// await: an earlier daemon's programs are attached and use maps of another
	// layout. They go on working until ours are filled; then switched closes.
	await    awaited
	switched chan struct{}
	takeover takeover

	hosts         hostSet
	routesWritten bool   // every route was written by this daemon; by SetHosts only
	podsHaveMTU   podMTU // what all pods were set to last; by SetHosts only

	attaching sync.Mutex      // guards await, uplinks, links and filtered
	uplinks   []string        // interfaces to other machines
	links     heldLinks       // of this daemon's programs
	filtered  map[string]bool // uplinks whose programs are filters: no tcx
	repaired  repairCounts
	contests  contests

	serving   sync.Mutex // guards serves
	serves    bool       // ServerAddress was given
	closeOnce sync.Once
}

// ErrLocked means that another daemon uses the state directory.
var ErrLocked = errors.New("another daemon uses this datapath's state directory; stop it, or give this one its own --data-dir")

// Open loads the programs, or replaces those an earlier daemon left, and takes
// over its maps, pods and addresses.
func Open(ctx context.Context, opts Options) (_ *Datapath, err error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("open datapath: %w", err)
	}
	if err := checkKernel(); err != nil {
		return nil, fmt.Errorf("open datapath: %w", err)
	}
	if err := checkCgroup(opts.CgroupRoot); err != nil {
		return nil, fmt.Errorf("open datapath: %w", err)
	}
	d := &Datapath{opts: opts, log: opts.Logger, links: heldLinks{}, filtered: map[string]bool{}, switched: make(chan struct{})}
	d.own.Store(&ownAddresses{node: opts.NodeIPs})
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	for _, step := range []func() error{
		d.lockState, d.openHost, d.checkIPv6, d.takeStandIn, d.load, d.startEncryption, d.setNodeAddrs, d.findUplinks, d.openRouted, d.openPods, d.attach, d.forwardIPv6,
	} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("open datapath: %w", err)
		}
		if err := step(); err != nil {
			return nil, fmt.Errorf("open datapath: %w", err)
		}
	}
	return d, nil
}

func (d *Datapath) lockState() error {
	if err := os.MkdirAll(d.opts.StateDir, 0o700); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(d.opts.StateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", d.opts.StateDir, ErrLocked)
		}
		return fmt.Errorf("lock %s: %w", d.opts.StateDir, err)
	}
	d.lock = f
	return nil
}

func (d *Datapath) openHost() (err error) {
	if d.host, err = openNamespace(d.opts.NetNS); err != nil {
		return err
	}
	return d.host.do(func() error {
		d.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		return nil
	})
}

// load brings programs and maps into the kernel. Nothing is attached yet.
func (d *Datapath) load() error {
	var err error
	if d.pins, err = openPins(d.opts.BPFFSDir); err != nil {
		return err
	}
	spec, err := d.configuredSpec()
	if err != nil {
		return err
	}
	d.specs = spec.Maps
	destroy := spec.Copy()
	destroy.Programs = map[string]*ebpf.ProgramSpec{
		bpf.DatapathProgDestroyUdp: destroy.Programs[bpf.DatapathProgDestroyUdp],
	}
	delete(spec.Programs, bpf.DatapathProgDestroyUdp)
	if d.set, err = d.pins.openMaps(spec.Maps, d.log); err != nil {
		return err
	}
	d.maps, d.await = d.set.maps, d.set.await
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: d.maps})
	if err != nil {
		return loadError(spec, err)
	}
	d.progs = coll.Programs
	d.encrypted = coll.Variables[bpf.DatapathVarEncrypted]
	d.tunnelByStack = coll.Variables[bpf.DatapathVarTunnelByStack]
	d.gather = coll.Variables[bpf.DatapathVarGatherIfindex]
	d.nodeIPv6 = coll.Variables[bpf.DatapathVarNodeIpv6]
	closeMaps(coll.Maps)
	if err := d.heedIPsec(); err != nil {
		d.log.Warn("whether the host has IPsec policies is not known: the tunnel's packets go through the stack", "err", err)
	}
	if err := d.openTakeover(coll); err != nil {
		return err
	}
	d.table = newTable(newServiceMaps(d.maps), d.opts.Limits, d.opts.MaglevSeed)
	d.table.setNodeIPs(d.NodeIPs())
	if d.policy, err = openPolicyMaps(d.maps); err != nil {
		return err
	}
	if err := d.startDestroyer(destroy); err != nil {
		return err
	}
	if d.set.adoptable() {
		return d.table.adopt(d.log)
	}
	return nil
}

func (d *Datapath) configuredSpec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	cookie, err := d.host.cookie()
	if err != nil {
		return nil, err
	}
	if d.dropNames, err = enumNames(spec.Types, "drop_reason", "DROP_"); err != nil {
		return nil, err
	}
	if d.kindNames, err = enumNames(spec.Types, "record_kind", "RECORD_"); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		bpf.DatapathVarHostNetnsCookie: cookie,
		bpf.DatapathVarNodePortMin:     uint16(nodePortMin),
		bpf.DatapathVarNodePortMax:     uint16(nodePortMax),
		bpf.DatapathVarMaglevSeed:      d.opts.MaglevSeed,
		bpf.DatapathVarNodeIpv4:        d.nodeKey(false),
		bpf.DatapathVarServerIpv4:      wireAddr(d.opts.PodCIDR.Addr()),
		bpf.DatapathVarNatPortMin:      uint16(natPortMin),
		bpf.DatapathVarNatPortMax:      uint16(natPortMax),
		bpf.DatapathVarTunnelId:        d.opts.VNI,
		bpf.DatapathVarTunnelPort:      wirePort(d.opts.VXLANPort),
	} {
		v, ok := spec.Variables[name]
		if !ok {
			continue // no program reads it, so the compiler left it out
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	for name, entries := range d.opts.mapLimits() {
		spec.Maps[name].MaxEntries = entries
	}
	if d.opts.alterMaps != nil {
		d.opts.alterMaps(spec.Maps)
	}
	return spec, nil
}

// verifierError prints the whole verdict: the last line alone seldom says why.
func verifierError(err error) error {
	var verdict *ebpf.VerifierError
	if errors.As(err, &verdict) {
		return fmt.Errorf("load programs: %+v", verdict) //nolint:errorlint // only %+v prints the whole log
	}
	return fmt.Errorf("load programs: %w", err)
}

// loadError says first which feature is missing, if that is why.
func loadError(spec *ebpf.CollectionSpec, err error) error {
	if missing := lacking(spec); len(missing) > 0 {
		return &UnsupportedError{Feature: strings.Join(missing, ", "), Since: newestKernel, Err: verifierError(err)}
	}
	return verifierError(err)
}

// setNodeAddrs tells the programs of this host's addresses.
func (d *Datapath) setNodeAddrs() error {
	if err := d.nodeIPv6.Set(d.nodeKey(true)); err != nil {
		return fmt.Errorf("set the programs' node_ipv6: %w", err)
	}
	m := d.maps[bpf.DatapathMapNodeAddrs]
	want := map[[4]uint32]bool{}
	for _, ip := range d.ownIPs() {
		key := wireAddr(ip)
		want[key] = true
		if err := m.Put(key, uint32(1)); err != nil {
			return fmt.Errorf("write node address %s: %w", ip, err)
		}
	}
	var key [4]uint32
	var value uint32
	var stale [][4]uint32
	for it := m.Iterate(); it.Next(&key, &value); {
		if !want[key] {
			stale = append(stale, key)
		}
	}
	for _, key := range stale {
		if err := ignoreMissing("delete node address", m.Delete(key)); err != nil {
			return err
		}
	}
	return nil
}

// nodeKey is the address in whose name calls are passed on, all zero without one.
func (d *Datapath) nodeKey(v6 bool) [4]uint32 {
	ip, _ := d.nodeIP(v6)
	return wireAddr(ip)
}

// SetService makes the kernel forward s. Equal settings write nothing.
func (d *Datapath) SetService(s Service) error {
	gone, err := d.table.set(s)
	if gone {
		d.destroyStaleUDP()
	}
	d.noRoom.note(s.Key, err)
	return err
}

// DeleteService ends the service set under key; an unknown key is no error.
func (d *Datapath) DeleteService(key string) error {
	gone, err := d.table.remove(key)
	if gone {
		d.destroyStaleUDP()
	}
	d.noRoom.note(key, err)
	return err
}

// SyncComplete says that every service that exists has been set since Open.
// What an earlier daemon left beyond these is dropped now.
func (d *Datapath) SyncComplete() error {
	dropped, gone, err := d.table.complete()
	if gone {
		d.destroyStaleUDP()
	}
	if err != nil {
		return fmt.Errorf("complete sync: %w", err)
	}
	if err := d.settled(awaitServices); err != nil {
		return fmt.Errorf("complete sync: %w", err)
	}
	if dropped > 0 {
		d.log.Info("dropped services that no longer exist", "count", dropped)
	}
	return d.dropOldMaps()
}

// SetBypass leaves the sockets of a network namespace alone, or serves them
// again: for software in it that wants to see service addresses itself.
func (d *Datapath) SetBypass(netnsPath string, on bool) error {
	ns, err := openNamespace(netnsPath)
	if err != nil {
		return fmt.Errorf("set bypass: %w", err)
	}
	defer ns.close()
	cookie, err := ns.cookie()
	if err != nil {
		return fmt.Errorf("set bypass of %s: %w", netnsPath, err)
	}
	m := d.maps[bpf.DatapathMapBypass]
	if on {
		return full("set bypass of "+netnsPath, m.Put(cookie, uint32(1)))
	}
	return ignoreMissing("end bypass of "+netnsPath, m.Delete(cookie))
}

// Close lets go of the datapath and leaves it working: programs, maps, pods.
// The address of ServerAddress goes.
func (d *Datapath) Close() error {
	var err error
	d.closeOnce.Do(func() {
		d.hosts.setting.Lock()
		err = errors.Join(d.withdrawServer(), d.closeWire())
		d.hosts.setting.Unlock()
		d.destroyer.stop()
		d.closeFlows()
		d.attaching.Lock()
		d.links.close()
		d.attaching.Unlock()
		for _, p := range d.progs {
			_ = p.Close()
		}
		if d.set != nil {
			d.set.close()
		}
		if d.nl != nil {
			d.nl.Close()
		}
		d.host.close()
		if d.lock != nil {
			_ = d.lock.Close()
		}
	})
	return err
}

// Remove takes the datapath away, pods' namespaces and addresses included, and
// closes it.
func (d *Datapath) Remove() error {
	var errs []error
	uids, err := d.Attached(context.Background())
	errs = append(errs, err)
	for _, uid := range uids {
		errs = append(errs, d.Detach(context.Background(), uid))
	}
	errs = append(errs, d.removeHosts(), d.removeUplinks(), d.restoreIPv6(), d.removePodRoutes(), d.removeServer(), d.removeStandIn(), d.pins.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove datapath: %w", err)
	}
	if err := d.Close(); err != nil {
		return err
	}
	if err := os.RemoveAll(d.opts.StateDir); err != nil {
		return fmt.Errorf("remove datapath: %w", err)
	}
	return nil
}
