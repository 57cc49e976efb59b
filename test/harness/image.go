package harness

import (
	"context"
	"path/filepath"
)

// WriteImage builds the image archive path with test/images: busybox with all
// its commands, program beside it if it is not empty, and command run by
// default.
func WriteImage(ctx context.Context, path, tag, program, command string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	argv := []string{"go", "-C", filepath.Join(root, "test", "images"), "run", ".", "-out", path, "-name", tag}
	if program != "" {
		argv = append(argv, "-bin", program)
	}
	if command != "" {
		argv = append(argv, "-cmd", command)
	}
	return Command{Argv: argv}.Run(ctx).Err
}
