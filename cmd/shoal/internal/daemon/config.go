//go:build linux

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"shoal/agent"
	"shoal/agent/logwriter"
	"shoal/agent/runtimes"
	"shoal/agent/shutdown"
	"shoal/api/pki"
	"shoal/netdp/dns/forward"
)

// Config is how one peer runs. The zero value of a field means its default.
type Config struct {
	Name                string `json:"name"`
	DataDir             string `json:"dataDir"`
	APIAddr             string `json:"apiAddr"`
	NodeIP              string `json:"nodeIP"`
	AgentPort           int    `json:"agentPort"`
	Containerd          string `json:"containerd"`
	ContainerdNamespace string `json:"containerdNamespace"`
	CgroupRoot          string `json:"cgroupRoot"`
	LogFormat           string `json:"logFormat"`
	// Resources say what of this host pods may have.
	Resources agent.Resources `json:"resources"`
	// Manifests is the directory of static pods; by default manifests/ in
	// DataDir.
	Manifests string `json:"manifests,omitempty"`
	// Shutdown is how long pods get when the machine shuts down.
	Shutdown []shutdown.Period `json:"shutdown,omitempty"`
	// StoreKeyFile has the key the store is encrypted with; by default it is in
	// the data directory.
	StoreKeyFile string `json:"storeKeyFile,omitempty"`
	// Runtimes are OCI runtimes beside runc, as runtimes.Parse reads them.
	Runtimes []string `json:"runtimes,omitempty"`
	// UnsafeSysctls are names and patterns that pods may set here.
	UnsafeSysctls []string `json:"unsafeSysctls,omitempty"`
	// SeccompDefault gives pods without a profile the runtime's default.
	SeccompDefault bool `json:"seccompDefault,omitempty"`
	// LogMaxSize, a quantity, and LogMaxFiles bound the logs of each container;
	// the defaults are the kubelet's.
	LogMaxSize  string `json:"logMaxSize,omitempty"`
	LogMaxFiles int    `json:"logMaxFiles,omitempty"`
	// ImageDir has archives that are imported; empty is images in the data
	// directory. ImageShareMbit is what other hosts are given of images per
	// second; 0 is the default, negative nothing.
	ImageDir       string `json:"imageDir,omitempty"`
	ImageShareMbit int    `json:"imageShareMbit,omitempty"`
	// DevicePluginDir is where device plugins register; none can if empty.
	DevicePluginDir string `json:"devicePluginDir,omitempty"`
	// DNSStubs are domains with DNS servers of their own, as forward.ParseStubs
	// reads them.
	DNSStubs []string `json:"dnsStubs,omitempty"`
	// NoMasquerade leaves pods their own addresses outside the cell; the ranges
	// of MasqueradeExcept always see these.
	NoMasquerade     bool           `json:"noMasquerade,omitempty"`
	MasqueradeExcept []netip.Prefix `json:"masqueradeExcept,omitempty"`
	// MapLimits are how many entries kernel maps take, where not the default.
	MapLimits map[string]uint32 `json:"mapLimits,omitempty"`
	// IPv6 is the cell's range of IPv6, a /48, "off" for none, or empty for the one
	// the cell has; a new cell's comes from its certificate authority.
	IPv6 string `json:"ipv6,omitempty"`
	// Encrypt says whether what pods of two hosts say is encrypted; nil: as the
	// cell has it.
	Encrypt *bool `json:"encrypt,omitempty"`
	// NetworkDriver gives pods their network: NetworkDriverShoal or
	// NetworkDriverCNI, for which CNIConfDir has the networks and CNIBinDirs the
	// plugins.
	NetworkDriver string   `json:"networkDriver,omitempty"`
	CNIConfDir    string   `json:"cniConfDir,omitempty"`
	CNIBinDirs    []string `json:"cniBinDirs,omitempty"`
	// GossipPort is where members hear each other; record streams and hosts
	// that join are on the next one.
	GossipPort int `json:"gossipPort"`
	// Join lists gossip addresses of a cell's hosts, separated by commas.
	Join string `json:"join,omitempty"`
	// Token lets this host join; it is used once and not kept.
	Token string `json:"-"`
	// WriteKubeconfig names a kubeconfig to merge the cell into; empty for none.
	WriteKubeconfig string `json:"-"`
	// Version is the release of this binary.
	Version string `json:"-"`
}

// Defaults of every flag; a host needs none.
const (
	DefaultDataDir             = "/var/lib/shoal"
	DefaultAPIAddr             = ":6443"
	DefaultAgentPort           = 10250
	DefaultGossipPort          = 7946
	DefaultContainerd          = "/run/containerd/containerd.sock"
	DefaultContainerdNamespace = "shoal"
	// podLogDir is the kubelet's, so that log shippers find the files.
	podLogDir = "/var/log/pods"
)

// complete fills in defaults and checks what a person may have typed wrong.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("read host name: %w; give the node's name with --name", err)
		}
		c.Name = name
	}
	if err := checkNodeName(c.Name); err != nil {
		return c, err
	}
	dir, err := filepath.Abs(orDefault(c.DataDir, DefaultDataDir))
	if err != nil {
		return c, fmt.Errorf("resolve data directory: %w", err)
	}
	c.DataDir = dir
	if c.StoreKeyFile != "" {
		if c.StoreKeyFile, err = filepath.Abs(c.StoreKeyFile); err != nil {
			return c, fmt.Errorf("resolve --store-key-file: %w", err)
		}
	}
	if c.ImageDir != "" {
		if c.ImageDir, err = filepath.Abs(c.ImageDir); err != nil {
			return c, fmt.Errorf("resolve the image directory: %w", err)
		}
	}
	if c.Manifests != "" {
		if c.Manifests, err = filepath.Abs(c.Manifests); err != nil {
			return c, fmt.Errorf("resolve --manifests: %w", err)
		}
	}
	if c.DevicePluginDir != "" {
		if c.DevicePluginDir, err = filepath.Abs(c.DevicePluginDir); err != nil {
			return c, fmt.Errorf("resolve --device-plugin-dir: %w", err)
		}
	}
	if c.WriteKubeconfig != "" {
		if c.WriteKubeconfig, err = filepath.Abs(c.WriteKubeconfig); err != nil {
			return c, fmt.Errorf("resolve the kubeconfig's path: %w", err)
		}
	}
	c.APIAddr = orDefault(c.APIAddr, DefaultAPIAddr)
	if c.AgentPort == 0 {
		c.AgentPort = DefaultAgentPort
	}
	if c.GossipPort == 0 {
		c.GossipPort = DefaultGossipPort
	}
	if c.GossipPort < 1 || c.GossipPort > 65534 {
		return c, fmt.Errorf("--gossip-port %d: want 1 to 65534; the port after it is used too", c.GossipPort)
	}
	if c.Join != "" {
		if _, err := streamAddresses(c.Join); err != nil {
			return c, err
		}
	}
	if _, err := runtimes.Parse(c.Runtimes); err != nil {
		return c, fmt.Errorf("--runtime: %w", err)
	}
	if _, err := forward.ParseStubs(c.DNSStubs); err != nil {
		return c, fmt.Errorf("--dns-stub: %w", err)
	}
	if _, err := c.logLimits(); err != nil {
		return c, err
	}
	c.Containerd = orDefault(c.Containerd, DefaultContainerd)
	c.ContainerdNamespace = orDefault(c.ContainerdNamespace, DefaultContainerdNamespace)
	if c.CgroupRoot == "" {
		if c.CgroupRoot, err = cgroup2Mount(); err != nil {
			return c, err
		}
	}
	if c.NodeIP == "" {
		ip, err := defaultNodeIP(c.APIAddr)
		if err != nil {
			return c, err
		}
		c.NodeIP = ip.String()
	} else if err := checkNodeIP(c.NodeIP); err != nil {
		return c, err
	}
	if err := checkIPv6(c.IPv6); err != nil {
		return c, err
	}
	if err := c.completeNetwork(); err != nil {
		return c, err
	}
	if err := c.Resources.Check(c.DataDir); err != nil {
		return c, err
	}
	return c, nil
}

// checkNodeIP accepts an IPv4 address of this host that others can reach.
func checkNodeIP(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("--node-ip %q is not an IP address", text)
	}
	if !addr.Is4() || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return fmt.Errorf("--node-ip %s: pods and other hosts could not reach it; give an IPv4 address of this host's network", addr)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == addr {
			return nil
		}
	}
	return fmt.Errorf("--node-ip %s is not on this host; see `ip addr`", addr)
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// defaultNodeIP is the address in apiAddr if it is one others can reach, else
// the source address of the default route, else the first global address.
func defaultNodeIP(apiAddr string) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(apiAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--api-addr %q: want HOST:PORT or :PORT: %w", apiAddr, err)
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Unmap().Is4() && !addr.IsUnspecified() && !addr.IsLoopback() {
		return addr.Unmap(), nil
	}
	if addr, ok := defaultRouteSource(); ok {
		return addr, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list this host's addresses: %w", err)
	}
	return firstNodeIP(addrs)
}

// firstNodeIP is the first of a host's addresses that others could reach it by.
func firstNodeIP(addrs []net.Addr) (netip.Addr, error) {
	var six netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil || !prefix.Addr().IsGlobalUnicast():
		case prefix.Addr().Is4():
			return prefix.Addr(), nil
		case !six.IsValid():
			six = prefix.Addr()
		}
	}
	if six.IsValid() {
		return netip.Addr{}, fmt.Errorf("this host has IPv6 addresses alone (%s): hosts of a cell know each other by IPv4 addresses, and tunnels between them have IPv4 ends; "+
			"give it one, a private one does, on the interface to the other hosts; pods have IPv6 beside IPv4 all the same", six)
	}
	return netip.Addr{}, errors.New("this host has no address that pods could reach; give it one on the interface to the other hosts, or name it with --node-ip")
}

func defaultRouteSource() (netip.Addr, bool) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		addrs, err := netlink.AddrList(link, unix.AF_INET)
		if err != nil || len(addrs) == 0 {
			continue
		}
		if addr, ok := netip.AddrFromSlice(addrs[0].IP); ok {
			return addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// pkiNames are the names and addresses the API is reached by.
func (c Config) pkiNames(service net.IP) pki.Names {
	names := pki.Names{
		Node: c.Name,
		DNS: []string{c.Name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
		IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, service, net.ParseIP(c.NodeIP)},
	}
	if host, _, err := net.SplitHostPort(c.APIAddr); err == nil {
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			names.IPs = append(names.IPs, ip)
		} else if ip == nil && host != "" {
			names.DNS = append(names.DNS, host)
		}
	}
	return names
}

// serverURL is where clients on this host reach the API.
func (c Config) serverURL(listen net.Addr) string {
	host, _, _ := net.SplitHostPort(c.APIAddr)
	_, port, _ := net.SplitHostPort(listen.String())
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}

// logLimits bound the log files of each container. Fewer than two would lose
// what was just written with every rotation, as with the kubelet.
func (c Config) logLimits() (logwriter.Limits, error) {
	limits := logwriter.DefaultLimits
	if c.LogMaxSize != "" {
		size, err := resource.ParseQuantity(c.LogMaxSize)
		if err != nil || size.Value() <= 0 {
			return limits, fmt.Errorf("--container-log-max-size %q: want a size, such as 10Mi", c.LogMaxSize)
		}
		limits.MaxBytes = size.Value()
	}
	if c.LogMaxFiles != 0 {
		limits.MaxFiles = c.LogMaxFiles
	}
	if limits.MaxFiles < 2 || limits.MaxFiles > logwriter.MaxFiles {
		return limits, fmt.Errorf("--container-log-max-files %d: want 2 to %d", limits.MaxFiles, logwriter.MaxFiles)
	}
	return limits, nil
}

func (c Config) agentAddr() string {
	host, _, _ := net.SplitHostPort(c.APIAddr)
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		// Others cannot reach this API anyway; agents are reached by node address.
		host = ""
	}
	if ip := net.ParseIP(host); ip == nil {
		host = ""
	}
	return net.JoinHostPort(host, strconv.Itoa(c.AgentPort))
}

const configFile = "daemon.json"

// save leaves the configuration for `shoal stop`, which has to find the same
// containers also when the daemon is gone.
func (c Config) save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode daemon configuration: %w", err)
	}
	return pki.WriteFile(filepath.Join(c.DataDir, configFile), append(data, '\n'), 0o600)
}

// Planned returns the configuration of the daemon that last ran on dataDir, or
// where none has, how one would run.
func Planned(dataDir string) (Config, error) {
	c, err := Load(dataDir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		c, err = Config{DataDir: dataDir}, nil
	}
	if err != nil {
		return c, err
	}
	c.DataDir = orDefault(c.DataDir, DefaultDataDir)
	c.APIAddr = orDefault(c.APIAddr, DefaultAPIAddr)
	if _, err := runtimes.Parse(c.Runtimes); err != nil {
		return c, fmt.Errorf("--runtime: %w", err)
	}
	c.Containerd = orDefault(c.Containerd, DefaultContainerd)
	if c.AgentPort == 0 {
		c.AgentPort = DefaultAgentPort
	}
	if ip, err := defaultNodeIP(c.APIAddr); err == nil && c.NodeIP == "" {
		c.NodeIP = ip.String()
	}
	return c, nil
}

// Load returns the configuration of the daemon that last ran on dataDir.
func Load(dataDir string) (Config, error) {
	data, err := os.ReadFile(filepath.Join(orDefault(dataDir, DefaultDataDir), configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("no daemon has run on %s; give its --data-dir: %w", orDefault(dataDir, DefaultDataDir), err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read daemon configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("read daemon configuration %s: %w", configFile, err)
	}
	return c, nil
}
