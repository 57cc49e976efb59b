package e2e

import (
	"context"
	"fmt"
	"path/filepath"

	"shoal/test/harness"
)

// The images of the tests, built here from static programs and loaded as a
// user would.
const (
	busyboxImage = "busybox:e2e"
	echoImage    = "echo:e2e"
)

// echoBinary is the echo program on this host; set before any test runs.
var echoBinary string

func loadImages(ctx context.Context) error {
	echoBinary = filepath.Join(world.Dir, "echo")
	build := harness.Command{
		Argv: []string{"go", "build", "-o", echoBinary, "./testdata/echo"},
		Env:  []string{"CGO_ENABLED=0"},
	}
	if result := build.Run(ctx); result.Err != nil {
		return fmt.Errorf("build the echo server: %w", result.Err)
	}
	for _, image := range []struct{ tag, program, command string }{
		{busyboxImage, "", "sh"},
		{echoImage, echoBinary, ""},
	} {
		path := filepath.Join(world.Dir, "image.tar")
		if err := harness.WriteImage(ctx, path, image.tag, image.program, image.command); err != nil {
			return err
		}
		if result := daemon.Command("image", "load", path).Run(ctx); result.Err != nil {
			return result.Err
		}
	}
	return nil
}
