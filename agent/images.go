package agent

import (
	"context"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/image"
)

// Images says where images come from. Zero values have the defaults named.
type Images struct {
	Peers     image.Peers // other hosts of the cell; nil: none
	ShareRate int64       // bytes per second given to peers; negative: none; default image.DefaultShareRate
	Directory string      // archives in it are imported; default DATADIR/images
	HostDirs  []string    // certs.d directories; default DATADIR/certs.d and /etc/shoal/certs.d
	AuthFile  string      // this host's credentials for registries; default DATADIR/config.json
	// CollectAge is how long an image that nothing uses stays at least; default
	// image.DefaultCollectAge, negative is not at all.
	CollectAge time.Duration
}

func (i *Images) fill(dataDir string) {
	if i.Directory == "" {
		i.Directory = filepath.Join(dataDir, "images")
	}
	if i.HostDirs == nil {
		i.HostDirs = []string{filepath.Join(dataDir, "certs.d"), "/etc/shoal/certs.d"}
	}
	if i.AuthFile == "" {
		i.AuthFile = filepath.Join(dataDir, "config.json")
	}
}

func (a *Agent) newImages() *image.Store {
	store := image.NewInCell(a.client, snapshotter, image.Config{
		Self: a.o.NodeName, Peers: a.o.Images.Peers, HostDirs: a.o.Images.HostDirs, AuthFile: a.o.Images.AuthFile,
		ShareRate: a.o.Images.ShareRate, CollectAge: a.o.Images.CollectAge, Logger: a.log,
	})
	store.SetInUse(a.imagesInUse)
	return store
}

// imagesInUse names the images of pods that have not ended, also those of their
// volumes.
func (a *Agent) imagesInUse() []string {
	var out []string
	for _, pod := range a.pods.list() {
		if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			continue
		}
		for _, c := range pod.Spec.InitContainers {
			out = append(out, c.Image)
		}
		for _, c := range pod.Spec.Containers {
			out = append(out, c.Image)
		}
		for _, c := range pod.Spec.EphemeralContainers {
			out = append(out, c.Image)
		}
		for _, v := range pod.Spec.Volumes {
			if v.Image != nil {
				out = append(out, v.Image.Reference)
			}
		}
	}
	return out
}

// CollectImages removes images that nothing uses until that many bytes are
// free, and returns how many were freed. It is for eviction.
func (a *Agent) CollectImages(ctx context.Context, bytes int64) (int64, error) {
	return a.images.Collect(namespaces.WithNamespace(ctx, a.o.ContainerdNamespace), bytes)
}

// keepImages collects images when the disk is full and imports what is put into
// the image directory.
func (a *Agent) keepImages(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, a.o.ContainerdNamespace)
	tell := func(reason, message string) { a.events.image(a.o.NodeName, reason, message) }
	directory := image.Directory{
		Store: a.images, Path: a.o.Images.Directory, State: filepath.Join(a.o.DataDir, "images.json"), Tell: tell, Log: a.log,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { a.images.KeepCollecting(ctx, tell); return nil })
	g.Go(func() error {
		if err := directory.Run(ctx); err != nil {
			// Pods do not depend on it.
			a.log.Error("images in the image directory are not imported", "error", err)
		}
		return nil
	})
	return g.Wait()
}

// image sends a warning about this host's images. Events about nodes carry the
// name as uid, as the kubelet's do.
func (e *events) image(node, reason, message string) {
	e.recorder.Event(&v1.ObjectReference{Kind: "Node", Name: node, UID: types.UID(node)}, v1.EventTypeWarning, reason, message)
}
