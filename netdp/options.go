package netdp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"shoal/netdp/wireguard"
)

// Limits of the kernel maps. Kubernetes supports 10,000 services; the rest
// follows from that. Arrays take their memory when they are made, hashes only
// their buckets.
const (
	// A service of ours is one port of a Kubernetes service; three ports each
	// is generous. Array of 16 bytes: 512 KiB.
	maxServices = 32_768
	// Cluster IP, node port and two external addresses for each. Hash.
	maxFrontends = 65_536
	// 100,000 endpoints and room for those that drain. Array of 24 bytes: 3 MiB.
	maxBackends = 131_072
	// Slots are handed out in powers of two, so at most half are unused.
	// Array of 8 bytes: 2 MiB.
	maxSlots = 262_144
	// Maglev chunks of 512 bytes, only for services callable from outside,
	// made when needed: at most 16 MiB.
	maxMaglevChunks = 32_768
	// Clients of services with session affinity; the least recent go first. LRU
	// hash, which takes its memory when it is made: 65,536 of about 100 bytes.
	maxAffinities = 65_536
	// Source ranges of all services. Made when needed.
	maxSources = 65_536
	// Pods of one host, each with two addresses; Kubernetes supports 110, a /24
	// holds 254.
	maxPods = 4_096
	// DefaultMaxFlows bounds the connections from other machines that are
	// tracked at once; each takes two map entries, about 200 bytes. Also the
	// connections of isolated pods, one entry of 120 bytes each. The least
	// recently used ones go first.
	DefaultMaxFlows = 65_536
	// Kubernetes supports 5,000 nodes. Entries are made when needed.
	maxHosts = 16_384
	// A host has a few addresses.
	maxTunnelPeers = 4 * maxHosts
	// maxRanges: each host has pods of two families, and addresses of its own.
	maxRanges = 2*maxHosts + maxTunnelPeers
	// Pods of the cell, by address: Kubernetes supports 150,000, each with two.
	// Hash: 8 MiB, and 96 bytes for each in use.
	maxPolicyPeers = 320_000
	// Identities that the rules of this host's pods name, for each set of rules.
	// Hash: 64 bytes each when in use.
	maxPolicyRules = 262_144
	// Ranges of addresses and ports; what is in use takes about 100 bytes each.
	maxPolicyBlocks = 131_072
	maxPolicyPorts  = 131_072
	// Ports from which calls are passed on to backends of other hosts. They are
	// below those that the kernel gives to the host's own programs.
	natPortMin = 10_000
	natPortMax = 29_999
	// DefaultVXLANPort is the one that Linux and most container networks use.
	DefaultVXLANPort = 8472
	// DefaultVNI is VXLAN's number of the cell's network. Two cells whose
	// hosts reach each other need different ones, or different ports.
	DefaultVNI = 1
	maxVNI     = 1<<24 - 1
	// Node ports, as Kubernetes has them by default.
	nodePortMin = 30_000
	nodePortMax = 32_767
)

// Options says where a Datapath keeps its state and what it serves.
type Options struct {
	// StateDir holds pod records and pinned network namespaces.
	StateDir string
	// BPFFSDir holds pinned maps and links; a bpffs is mounted there if it is
	// not on one.
	BPFFSDir string
	// CgroupRoot is the cgroup2 directory whose processes may call services.
	CgroupRoot string
	// NodeName is for log lines.
	NodeName string
	// NodeIPs are the addresses at which this host's node ports are called.
	// The first of each family is the source of the host's own traffic to pods.
	NodeIPs []netip.Addr
	// PodCIDR is the range pods of this host get their addresses from.
	PodCIDR netip.Prefix
	// PodCIDR6 is the range of the IPv6 address that each pod has beside its
	// IPv4 one: the one with the same number in its range. The zero value: pods
	// have IPv4 only, as on a host that has IPv6 switched off.
	PodCIDR6 netip.Prefix
	// RoutedPods are pods of this host with a network of other drivers.
	RoutedPods []RoutedPod
	// CellPodCIDR is the range that the pods of all hosts are in; the zero value
	// means that only those of known hosts are. CellPodCIDR6 is that of IPv6.
	CellPodCIDR, CellPodCIDR6 netip.Prefix
	// NoMasquerade leaves pods their own addresses in the world outside: its
	// routers know the ways to them.
	NoMasquerade bool
	// MasqueradeExcept are ranges outside the cell that see pods by their own
	// addresses all the same.
	MasqueradeExcept []netip.Prefix
	// ServiceCIDR is the cell's range of cluster IPs, ServiceCIDR6 that of IPv6.
	ServiceCIDR, ServiceCIDR6 netip.Prefix
	// Uplinks are the interfaces to other machines. Empty: those that hold a
	// node address, or else those of the default routes.
	Uplinks []string
	// NetNS is the path of the network namespace that is the host's. Empty:
	// the one of this process.
	NetNS string
	// VXLANPort is the UDP port of the tunnel to hosts that share no link with
	// this one, the same on every host of a cell. 0: DefaultVXLANPort.
	VXLANPort uint16
	// VNI is the number of the tunnel's network, the same on every host of a
	// cell. 0: DefaultVNI.
	VNI uint32
	// WireGuardKey is this host's key with which packets of pods to other hosts
	// are encrypted, the zero value: they are not. WireGuardPort is the UDP port,
	// the same on every host of a cell. 0: DefaultWireGuardPort.
	WireGuardKey  wireguard.PrivateKey
	WireGuardPort uint16
	// MaglevSeed is the same on every host of a cell.
	MaglevSeed uint32
	// MaxFlows replaces DefaultMaxFlows when it is not zero.
	MaxFlows uint32
	Logger   *slog.Logger

	// Limits of the services' maps; a zero value has those that are named above.
	// Entries of an earlier daemon's maps of another size are carried over.
	Limits MapLimits
	// SetLimits are an administrator's limits of maps, by the names that MapFills
	// has; CheckLimits says which can be set. They come before Limits and MaxFlows.
	SetLimits map[string]uint32

	noTCX         bool                           // as on Linux before 6.6, for tests
	alterMaps     func(map[string]*ebpf.MapSpec) // as in another version, for tests
	userWireGuard bool                           // as on a kernel without WireGuard, for tests
}

// MapLimits are how many entries the maps of services take. Slots is a power of
// two.
type MapLimits struct {
	Services, Frontends, Backends, Slots, MaglevChunks uint32
}

func (o *Options) complete() error {
	for _, p := range []struct{ name, path string }{
		{"StateDir", o.StateDir}, {"BPFFSDir", o.BPFFSDir}, {"CgroupRoot", o.CgroupRoot},
	} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("check options: %s %q must be an absolute path", p.name, p.path)
		}
	}
	if !o.PodCIDR.IsValid() || !o.PodCIDR.Addr().Is4() || o.PodCIDR.Bits() > 30 {
		return fmt.Errorf("check options: PodCIDR %q must be an IPv4 range of at least four addresses", o.PodCIDR)
	}
	o.PodCIDR = o.PodCIDR.Masked()
	if o.ServiceCIDR.IsValid() && o.ServiceCIDR.Overlaps(o.PodCIDR) {
		return fmt.Errorf("check options: ServiceCIDR %s overlaps PodCIDR %s", o.ServiceCIDR, o.PodCIDR)
	}
	if err := o.completeIPv6(); err != nil {
		return err
	}
	var err error
	if o.NodeIPs, err = o.checkNodeIPs(o.NodeIPs); err != nil {
		return fmt.Errorf("check options: %w", err)
	}
	if o.VXLANPort == 0 {
		o.VXLANPort = DefaultVXLANPort
	}
	if o.WireGuardPort == 0 {
		o.WireGuardPort = DefaultWireGuardPort
	}
	if o.VNI == 0 {
		o.VNI = DefaultVNI
	}
	if o.VNI > maxVNI {
		return fmt.Errorf("check options: VNI %d is larger than %d", o.VNI, maxVNI)
	}
	if err := o.completeLimits(); err != nil {
		return err
	}
	if o.Logger == nil {
		return errors.New("check options: Logger is missing")
	}
	return nil
}

func (o *Options) completeIPv6() error {
	p := o.PodCIDR6
	if !p.IsValid() {
		return nil
	}
	if !p.Addr().Is6() || p.Addr().Is4In6() || 128-p.Bits() < 32-o.PodCIDR.Bits() {
		return fmt.Errorf("check options: PodCIDR6 %q must be an IPv6 range of as many addresses as PodCIDR %s at least", p, o.PodCIDR)
	}
	o.PodCIDR6 = p.Masked()
	if o.ServiceCIDR6.IsValid() && o.ServiceCIDR6.Overlaps(p) {
		return fmt.Errorf("check options: ServiceCIDR6 %s overlaps PodCIDR6 %s", o.ServiceCIDR6, p)
	}
	return nil
}

// podRange is that of one family, not valid when pods have no such address.
func (o *Options) podRange(v6 bool) netip.Prefix {
	if v6 {
		return o.PodCIDR6
	}
	return o.PodCIDR
}
