package netdp

import (
	"fmt"
	"net/netip"

	"shoal/bpf"
	"shoal/netdp/netns"
)

// setCaller says which addresses a namespace has, by which its sockets are
// judged where a service has source ranges. The first of each family counts.
func (d *Datapath) setCaller(ns namespace, addrs []netip.Addr) error {
	cookie, err := ns.cookie()
	if err != nil {
		return fmt.Errorf("write addresses of namespace: %w", err)
	}
	var value bpf.DatapathCaller
	for _, a := range addrs {
		field := &value.Ipv6
		if a.Unmap().Is4() {
			field = &value.Ipv4
		}
		if *field == ([4]uint32{}) {
			*field = wireAddr(a.Unmap())
		}
	}
	return full("write addresses of namespace", d.maps[bpf.DatapathMapCallers].Put(cookie, value))
}

// setPodCaller opens the pod's namespace by its pin.
func (d *Datapath) setPodCaller(rec podRecord) error {
	ns, err := openNamespace(d.pods.records.netns(rec.UID))
	if err != nil {
		return err
	}
	defer ns.close()
	return d.setCaller(ns, rec.addresses())
}

// dropPodCaller comes before the namespace goes; one that is gone already has
// left an entry that no socket has any more, and dropStrayCallers finds it.
func (d *Datapath) dropPodCaller(rec podRecord) error {
	return d.dropCaller(d.pods.records.netns(rec.UID))
}

// dropCaller forgets the namespace pinned at path, if one is.
func (d *Datapath) dropCaller(path string) error {
	if !netns.Pinned(path) {
		return nil
	}
	ns, err := openNamespace(path)
	if err != nil {
		return err
	}
	defer ns.close()
	cookie, err := ns.cookie()
	if err != nil {
		return fmt.Errorf("delete addresses of namespace: %w", err)
	}
	return ignoreMissing("delete addresses of namespace", d.maps[bpf.DatapathMapCallers].Delete(cookie))
}

// dropStrayCallers forgets namespaces that are no pod's of ours. Open calls it
// once its pods are known.
func (d *Datapath) dropStrayCallers() error {
	known := map[[4]uint32]bool{}
	for _, e := range d.pods.byUID {
		known[wireAddr(e.record.Address)] = true
	}
	for _, p := range d.opts.RoutedPods {
		known[wireAddr(p.ipv4())] = true
	}
	host, err := d.host.cookie()
	if err != nil {
		return err
	}
	var stray []uint64
	m := d.maps[bpf.DatapathMapCallers]
	if err := readMap(m, func(cookie uint64, c bpf.DatapathCaller) {
		if cookie != host && !known[c.Ipv4] {
			stray = append(stray, cookie)
		}
	}); err != nil {
		return fmt.Errorf("list namespaces in kernel: %w", err)
	}
	for _, cookie := range stray {
		if err := ignoreMissing("delete addresses of namespace", m.Delete(cookie)); err != nil {
			return err
		}
	}
	return nil
}
