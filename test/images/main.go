// Command images builds a container image archive from static programs of this
// host, without a registry and without a container engine. The result goes to
// `shoal image load`, `docker load` or `ctr image import`.
//
// The image has one layer: the named program, and busybox with all its commands
// beside it where the host has one, so that `shoal exec NAME -- sh` works. The
// same input gives the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var out, tagName, program, command, busybox string
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.StringVar(&out, "out", "", "the archive to write (required)")
	flags.StringVar(&tagName, "name", "", "the image's name, such as hello:latest (required)")
	flags.StringVar(&program, "bin", "", "a static program to put at /usr/local/bin and to run")
	flags.StringVar(&command, "cmd", "", "what the image runs, as words; the program if empty, else sh")
	flags.StringVar(&busybox, "busybox", "/bin/busybox", "static busybox for sh and the rest; left out if there is none")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage: go run . -out hello.tar -name hello:latest -bin ./hello")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if out == "" || tagName == "" {
		flags.Usage()
		return errors.New("-out and -name are required")
	}
	tag, err := name.NewTag(tagName)
	if err != nil {
		return fmt.Errorf("parse image name: %w", err)
	}
	parts := contents{busybox: existing(busybox), program: program, command: strings.Fields(command)}
	if parts.busybox == "" && parts.program == "" {
		return fmt.Errorf("nothing to put into the image: no -bin, and no busybox at %s", busybox)
	}
	if len(parts.command) == 0 {
		parts.command = []string{"sh"}
		if program != "" {
			parts.command = []string{path.Join("/", programDir, filepath.Base(program))}
		}
	}
	image, err := parts.image()
	if err != nil {
		return fmt.Errorf("build image %s: %w", tag, err)
	}
	return tarball.WriteToFile(out, tag, image)
}

// existing returns the path if a file is there, else nothing.
func existing(file string) string {
	if info, err := os.Stat(file); err != nil || info.IsDir() {
		return ""
	}
	return file
}
