package runner

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"shoal/agent/cgroup"
	"shoal/agent/volume"
)

// sandbox is what the containers of a pod share.
type sandbox struct {
	ready    bool
	netns    string
	ips      []netip.Addr
	failures int
}

// retryFirst and retryMax bound the wait before a failed step is tried again.
const (
	retryFirst = time.Second
	retryMax   = time.Minute
)

func retryAfter(failures int) time.Duration {
	return min(retryFirst<<min(failures, 10), retryMax)
}

// prepare makes everything the first container needs, all at once.
func (w *worker) prepare(ctx context.Context, pod *v1.Pod) (time.Time, bool) {
	err := w.prepareAll(ctx, pod)
	if err == nil {
		w.box.ready = true
		return time.Time{}, true
	}
	if ctx.Err() != nil || w.startable.Err() != nil {
		return time.Time{}, false
	}
	w.box.failures++
	reason := "FailedCreatePodSandBox"
	if strings.Contains(err.Error(), "volume") {
		reason = "FailedMount"
	}
	w.r.Sink.Event(pod, v1.EventTypeWarning, reason, err.Error())
	w.log.Warn("pod cannot be set up yet", "error", err, "failures", w.box.failures)
	return now().Add(retryAfter(w.box.failures)), false
}

func (w *worker) prepareAll(ctx context.Context, pod *v1.Pod) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if pod.Spec.HostNetwork {
			w.box.netns, w.box.ips = "", w.r.NodeIPs
			return nil
		}
		netns, ips, err := w.r.Network.Attach(ctx, string(pod.UID), pod.Namespace, pod.Name)
		if err != nil {
			return fmt.Errorf("attach network: %w", err)
		}
		w.box.netns, w.box.ips = netns, ips
		return nil
	})
	g.Go(func() error { return w.r.pins.make(string(pod.UID), hostname(pod), !pod.Spec.HostNetwork) })
	g.Go(func() error { return w.makeGroup(pod) })
	g.Go(func() error { return w.r.Volumes.Setup(ctx, pod) })
	g.Go(func() error { return w.makeDirs(pod) })
	g.Go(func() error { return w.makeShm(pod) })
	g.Go(func() error {
		w.prefetch(ctx, pod)
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return w.writeHosts(pod)
}

// prefetch makes the root file systems of the containers that start first.
// Failing is fine: the start tries again and reports.
func (w *worker) prefetch(ctx context.Context, pod *v1.Pod) {
	var g errgroup.Group
	for _, s := range w.first() {
		if s.spec.ImagePullPolicy == v1.PullAlways {
			continue
		}
		g.Go(func() error {
			img, err := w.r.Images.Get(ctx, s.spec.Image)
			if err != nil {
				return nil
			}
			s.image = img
			p, err := w.snapshot(ctx, pod, s)
			if err == nil {
				s.prepared = p
			}
			return nil
		})
	}
	_ = g.Wait()
}

// first are the slots that can start as soon as the sandbox is there.
func (w *worker) first() []*slot {
	var mains []*slot
	for _, s := range w.slots {
		switch {
		case s.running() || s.current != nil || s.succeeded() || s.prepared != nil:
		case s.role != roleMain:
			return []*slot{s}
		default:
			mains = append(mains, s)
		}
	}
	return mains
}

// QOSClass is the pod's class, as the API or else as its containers say.
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return qos.ComputePodQOS(pod)
}

func (w *worker) makeGroup(pod *v1.Pod) error {
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if pod.Spec.Resources != nil && !pod.Spec.Resources.Limits.Name(name, "").IsZero() {
			continue // the pod's own limit holds, whatever its containers say
		}
		for i := range pod.Spec.Containers {
			if q := pod.Spec.Containers[i].Resources.Limits[name]; q.IsZero() {
				delete(limits, name)
			}
		}
	}
	return w.r.Cgroups.Create(QOSClass(pod), string(pod.UID), cgroup.ForPod(requests, limits))
}

func (w *worker) podDir(pod *v1.Pod) string {
	return filepath.Join(w.r.DataDir, "pods", string(pod.UID))
}

// LogDir is where the pod's logs are, in the kubelet's layout.
func LogDir(base string, pod *v1.Pod) string {
	return filepath.Join(base, logName(pod))
}

func (w *worker) makeDirs(pod *v1.Pod) error {
	if err := os.MkdirAll(w.podDir(pod), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := w.r.logs.add(logName(pod)); err != nil {
		return err
	}
	for _, s := range w.slots {
		if err := os.MkdirAll(filepath.Join(LogDir(w.r.LogDir, pod), s.spec.Name), 0o755); err != nil {
			return fmt.Errorf("make log directory: %w", err)
		}
	}
	return nil
}

func hostname(pod *v1.Pod) string {
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.HostnameOverride != nil {
		name = *pod.Spec.HostnameOverride
	}
	const kernelMax = 63 // HOST_NAME_MAX less the end
	if len(name) > kernelMax {
		name = strings.TrimRight(name[:kernelMax], "-.")
	}
	return name
}

// writeHosts makes the pod's /etc/hosts, /etc/hostname and resolv.conf.
func (w *worker) writeHosts(pod *v1.Pod) error {
	if pod.Spec.HostNetwork {
		return nil
	}
	dir := w.podDir(pod)
	resolv, err := resolvConf(pod)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hosts":       hostsFile(pod, w.box.ips),
		"hostname":    hostname(pod) + "\n",
		"resolv.conf": resolv,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func hostsFile(pod *v1.Pod, ips []netip.Addr) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	for _, ip := range ips {
		b.WriteString(ip.String() + "\t" + hostname(pod) + "\n")
	}
	for _, a := range pod.Spec.HostAliases {
		b.WriteString(a.IP + "\t" + strings.Join(a.Hostnames, "\t") + "\n")
	}
	return b.String()
}

// resolvConf gives the host's resolver settings, or the pod's own.
func resolvConf(pod *v1.Pod) (string, error) {
	text := ""
	if pod.Spec.DNSPolicy != v1.DNSNone {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's resolver settings: %w", err)
		}
		text = string(data)
	}
	c := pod.Spec.DNSConfig
	if c == nil {
		return text, nil
	}
	for _, n := range c.Nameservers {
		text += "nameserver " + n + "\n"
	}
	if len(c.Searches) > 0 {
		text += "search " + strings.Join(c.Searches, " ") + "\n"
	}
	for _, o := range c.Options {
		text += "options " + o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		text += "\n"
	}
	return text, nil
}

// shmOptions bound the pod's shared memory as containerd does for one
// container.
const shmOptions = "mode=1777,size=65536k"

// makeShm makes the /dev/shm that the pod's containers share. A lone
// container has one of its own from runc, which saves a mount.
func (w *worker) makeShm(pod *v1.Pod) error {
	if len(w.slots) < 2 {
		return nil
	}
	dir := w.shmDir(pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	if isMount(dir) {
		return nil
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, shmOptions); err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	return nil
}

func (w *worker) shmDir(pod *v1.Pod) string {
	return filepath.Join(w.podDir(pod), "shm")
}

func dropShm(dir string) error {
	if !isMount(dir) {
		return nil
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount shared memory: %w", err)
	}
	return nil
}

// warn names fields that are accepted and have no effect here.
func (w *worker) warn(pod *v1.Pod) {
	for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		for _, p := range c.Ports {
			if p.HostPort != 0 && !pod.Spec.HostNetwork {
				w.r.Sink.Event(pod, v1.EventTypeWarning, "Unsupported",
					fmt.Sprintf("container %s: ports[].hostPort %d has no effect here; use a NodePort service or hostNetwork", c.Name, p.HostPort))
			}
		}
		if c.Stdin {
			w.r.Sink.Event(pod, v1.EventTypeWarning, "Unsupported", fmt.Sprintf("container %s: stdin is not connected; use exec for input", c.Name))
		}
	}
}

// checkSupported names the first field of the pod that would be ignored.
func checkSupported(pod *v1.Pod) error {
	switch {
	case pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers:
		return fmt.Errorf("spec.hostUsers: false is %w here", volume.ErrUnsupported)
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		return fmt.Errorf("spec.shareProcessNamespace is %w here", volume.ErrUnsupported)
	case pod.Spec.HostIPC:
		return fmt.Errorf("spec.hostIPC is %w here", volume.ErrUnsupported)
	case len(pod.Spec.EphemeralContainers) > 0:
		return fmt.Errorf("spec.ephemeralContainers is %w here", volume.ErrUnsupported)
	case len(pod.Spec.ResourceClaims) > 0:
		return fmt.Errorf("spec.resourceClaims is %w here", volume.ErrUnsupported)
	case pod.Spec.RuntimeClassName != nil:
		return fmt.Errorf("spec.runtimeClassName is %w here", volume.ErrUnsupported)
	}
	if err := volume.Check(pod); err != nil {
		return err
	}
	return checkContainers(pod)
}

func checkContainers(pod *v1.Pod) error {
	all := append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, c := range all {
		if len(c.VolumeDevices) > 0 {
			return fmt.Errorf("container %s: volumeDevices is %w here", c.Name, volume.ErrUnsupported)
		}
	}
	return nil
}
