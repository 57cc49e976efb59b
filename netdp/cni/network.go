package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// network is a configuration and the file it is in.
type network struct {
	*libcni.NetworkConfigList
	path string
}

// network reads the configuration that counts: of all files, the first by name,
// as in containerd and CRI-O. One that cannot be read is not passed over, since
// pods would silently get another network than the one meant.
func (o Options) network() (network, error) {
	files, err := libcni.ConfFiles(o.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return network{}, fmt.Errorf("look for CNI networks: %w", err)
	}
	if len(files) == 0 {
		return network{}, fmt.Errorf("no CNI network is configured: %s has no .conflist file; install a network plugin, which puts one there, or start this host with --network-driver shoal", o.ConfDir)
	}
	slices.Sort(files)
	path := files[0]
	var list *libcni.NetworkConfigList
	if filepath.Ext(path) == ".conflist" {
		list, err = libcni.NetworkConfFromFile(path)
	} else {
		list, err = ofOnePlugin(path)
	}
	if err != nil {
		return network{}, fmt.Errorf("read CNI network %s: %w", path, err)
	}
	return network{list, path}, nil
}

// ofOnePlugin reads the older form of configurations, which runtimes still take.
func ofOnePlugin(path string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{
		"name": plugin.Network.Name, "cniVersion": plugin.Network.CNIVersion, "plugins": []json.RawMessage{data},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// inlined is the list with all of its plugins in it, also those that have files
// of their own.
func inlined(list *libcni.NetworkConfigList) ([]byte, error) {
	var raw map[string]any
	if err := json.Unmarshal(list.Bytes, &raw); err != nil {
		return nil, err
	}
	plugins := make([]json.RawMessage, len(list.Plugins))
	for i, p := range list.Plugins {
		plugins[i] = p.Bytes
	}
	raw["plugins"], raw["loadOnlyInlinedPlugins"] = plugins, true
	return json.Marshal(raw)
}

// Look reports a network that is missing or cannot be read, and plugins that it
// needs and that are not there. Nothing is run or written.
func (o Options) Look() error {
	_, err := o.look()
	return err
}

func (o Options) look() (network, error) {
	list, err := o.network()
	if err != nil {
		return list, err
	}
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := findPlugin(name, o.BinDirs); err != nil {
				return list, fmt.Errorf("%w; network %q of %s needs it", err, list.Name, list.path)
			}
		}
	}
	return list, nil
}

// Ready says what keeps pods from getting a network: what Look finds, or a plugin
// that says so itself (STATUS, since version 1.1.0).
func (d *Driver) Ready(ctx context.Context) error {
	list, err := d.o.look()
	if err != nil {
		return err
	}
	// It waits for no place among plugins that run: those that hang keep theirs, and
	// STATUS may run beside everything.
	ctx, cancel := context.WithTimeout(ctx, d.o.CheckTimeout)
	defer cancel()
	if err = d.lib.GetStatusNetworkList(ctx, list.NetworkConfigList); err != nil {
		return fmt.Errorf("CNI network %q of %s: %w", list.Name, list.path, err)
	}
	return nil
}

// runtimeConf is what plugins are told of a pod beside their configuration. The
// arguments are those of containerd and CRI-O.
func (d *Driver) runtimeConf(rec record) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: rec.Sandbox, IfName: ifName, CapabilityArgs: rec.Capabilities,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", rec.Namespace},
			{"K8S_POD_NAME", rec.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", rec.Sandbox},
			{"K8S_POD_UID", rec.UID},
		},
	}
	if rec.Boot == d.boot {
		rt.NetNS = d.pin(rec.UID)
	}
	return rt
}

// addressesOf are the pod's own addresses in a result, one of each family.
func addressesOf(result types.Result) ([]netip.Addr, error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("read result of plugins: %w", err)
	}
	var v4, v6 netip.Addr
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) && !isPodInterface(r.Interfaces[*i]) {
			continue
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		addr = addr.Unmap()
		switch {
		case !ok:
		case addr.Is4() && !v4.IsValid():
			v4 = addr
		case addr.Is6() && !v6.IsValid():
			v6 = addr
		}
	}
	var out []netip.Addr
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the plugins gave the pod no address: does their configuration name an ipam plugin?")
	}
	return out, nil
}

// isPodInterface: the others in a result are on the host, or of a plugin that
// makes several.
func isPodInterface(i *types100.Interface) bool {
	return i.Sandbox != "" && (i.Name == ifName || i.Name == "")
}

func findPlugin(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("CNI plugin %q is not in %s: install it, or name its directory with --cni-bin-dir", plugin, strings.Join(dirs, ", "))
	}
	return path, nil
}
