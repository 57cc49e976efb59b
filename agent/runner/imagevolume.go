package runner

import (
	"context"
	"fmt"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/image"
	"shoal/agent/volume"
)

// labelVolumePod names the pod whose image volume a snapshot is.
const labelVolumePod = "shoal.volume/pod-uid"

// imageVolumes is the Driver of volumes that are the files of an image
// (KEP-4639): a read-only view of its unpacked layers, mounted once for all
// containers of the pod. It outlives the daemon; after a reboot it is mounted
// again. The mount waits for the pull, which the pod's worker does.
type imageVolumes struct {
	client      *containerd.Client
	snapshotter string
}

func imageVolumeKey(podUID, name string) string { return "volume-" + podUID + "-" + name }

// Setup says where the volume will be.
func (imageVolumes) Setup(_ context.Context, r *volume.Request) (volume.Mounted, error) {
	return volume.Mounted{Path: r.Dir, ReadOnly: true}, os.MkdirAll(r.Dir, 0o755)
}

// Teardown unmounts the volume and removes its snapshot.
func (d imageVolumes) Teardown(ctx context.Context, podUID, name, dir string) error {
	for volume.IsMountPoint(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	key := imageVolumeKey(podUID, name)
	if err := d.client.SnapshotService(d.snapshotter).Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image volume %s: %w", key, err)
	}
	return nil
}

// mountImageVolume mounts the view of the image at dir.
func (w *worker) mountImageVolume(ctx context.Context, pod *v1.Pod, name, dir string, img *image.Image) error {
	d, podUID := w.r.imageVolumes, string(pod.UID)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	service := d.client.SnapshotService(d.snapshotter)
	key := imageVolumeKey(podUID, name)
	mounts, err := service.View(ctx, key, img.ChainID, snapshots.WithLabels(map[string]string{
		labelRoot: "true", labelVolumePod: podUID,
	}))
	if errdefs.IsAlreadyExists(err) {
		mounts, err = service.Mounts(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("prepare image volume %s: %w", name, err)
	}
	if w.box.users != nil {
		err = w.mapVolume(pod, key, mounts, dir)
	} else {
		err = mount.All(mounts, dir)
	}
	if err != nil {
		return fmt.Errorf("mount image volume %s: %w", name, err)
	}
	return nil
}

// imageVolume is where one such volume of the pod stands.
type imageVolume struct {
	*slot // stands for the image to pull
	ready bool
}

// ensureImageVolumes makes sure that the image volumes of a container are
// mounted. Else a pull runs or waits, as for the container's own image, and
// the second result is false.
func (w *worker) ensureImageVolumes(ctx context.Context, pod *v1.Pod, s *slot) (time.Time, bool) {
	var next time.Time
	all := true
	for i := range s.spec.VolumeMounts {
		iv := w.imageVolume(pod, s.spec.VolumeMounts[i].Name)
		if iv == nil || iv.ready {
			continue
		}
		at, ok := w.ensureImageVolume(ctx, pod, iv)
		next = earlier(next, at)
		if !ok {
			all = false
			s.waiting = iv.waiting
		}
	}
	return next, all
}

func (w *worker) ensureImageVolume(ctx context.Context, pod *v1.Pod, iv *imageVolume) (time.Time, bool) {
	name := iv.spec.Name
	at, ok := w.r.Volumes.Mounted(pod.UID, name)
	if ok && volume.IsMountPoint(at.Path) {
		iv.ready = true // an earlier daemon's
		return time.Time{}, true
	}
	if next, ok := w.ensureImage(ctx, pod, iv.slot); !ok {
		return next, false
	}
	if err := w.mountImageVolume(ctx, pod, name, at.Path, iv.image); err != nil {
		if errdefs.IsNotFound(err) { // its layers are gone
			w.r.Images.Forget(iv.image)
			iv.image = nil
		}
		if iv.waiting.Message != err.Error() {
			w.r.Sink.Event(pod, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
		}
		iv.waiting = v1.ContainerStateWaiting{Reason: reasonCreateError, Message: err.Error()}
		iv.retries++
		return now().Add(retryAfter(iv.retries)), false
	}
	iv.ready = true
	return time.Time{}, true
}

// imageVolume finds the pod's image volume of a name; nil if it is none.
func (w *worker) imageVolume(pod *v1.Pod, name string) *imageVolume {
	if iv := w.imageVols[name]; iv != nil {
		return iv
	}
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.Name != name || vol.Image == nil {
			continue
		}
		iv := &imageVolume{slot: &slot{role: roleImageVolume, spec: &v1.Container{
			Name: name, Image: vol.Image.Reference, ImagePullPolicy: vol.Image.PullPolicy,
		}}}
		if w.imageVols == nil {
			w.imageVols = map[string]*imageVolume{}
		}
		w.imageVols[name] = iv
		return iv
	}
	return nil
}
