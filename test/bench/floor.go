package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sync/errgroup"

	"shoal/test/harness"
)

// containerd and runc are fastest here with as many containers at once as this:
// two cores, and each start waits for runc more than it computes.
const atOnce = 4

// Times of containerd and runc alone on the machine the targets were set on.
const floorReference = "5.9"

// floor reports what the containers of deploymentOfHundred cost without any
// orchestrator: the same image and command, started and ended through
// containerd's client. Beside the Deployment's times it tells a slow machine
// from a slow daemon.
func floor(ctx context.Context, b *bench) error {
	if _, err := b.described(ctx, "floor"); err != nil { // starts containerd
		return err
	}
	client, err := containerd.New(b.containerd.Socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, "floor"), patience)
	defer cancel()
	image, err := importImage(ctx, client, filepath.Join(b.world.Dir, "floor.tar"))
	if err != nil {
		return err
	}
	tasks := make([]containerd.Task, replicas)
	began := time.Now()
	err = each(ctx, func(ctx context.Context, i int) error {
		id := fmt.Sprintf("floor-%d", i)
		c, err := client.NewContainer(ctx, id, containerd.WithNewSnapshot(id, image),
			containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", waits)))
		if err != nil {
			return err
		}
		if tasks[i], err = c.NewTask(ctx, cio.NullIO); err != nil {
			return err
		}
		return tasks[i].Start(ctx)
	})
	if err == nil {
		b.floorUp = time.Since(began)
		report("containerd and runc alone: 100 containers → running", b.floorUp.Seconds(), "s", stated, floorReference)
	}
	began = time.Now()
	ended := each(ctx, func(ctx context.Context, i int) error {
		return endTask(ctx, client, tasks[i], fmt.Sprintf("floor-%d", i))
	})
	if err == nil && ended == nil {
		report("containerd and runc alone: 100 containers → gone", time.Since(began).Seconds(), "s", stated, "")
	}
	return errors.Join(err, ended)
}

func importImage(ctx context.Context, client *containerd.Client, path string) (containerd.Image, error) {
	if err := harness.WriteImage(ctx, path, benchImage, "", ""); err != nil {
		return nil, err
	}
	archive, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	images, err := client.Import(ctx, archive)
	if err != nil {
		return nil, err
	}
	image := containerd.NewImage(client, images[0])
	return image, image.Unpack(ctx, "")
}

func endTask(ctx context.Context, client *containerd.Client, task containerd.Task, id string) error {
	if task != nil {
		exited, err := task.Wait(ctx)
		if err != nil {
			return err
		}
		if err := task.Kill(ctx, syscall.SIGTERM); err != nil {
			return err
		}
		<-exited
		if _, err := task.Delete(ctx); err != nil {
			return err
		}
	}
	c, err := client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	return c.Delete(ctx, containerd.WithSnapshotCleanup)
}

// each calls f for every replica, atOnce at a time.
func each(ctx context.Context, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range replicas {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}
