package image

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// platform is what this host runs.
var platform = platforms.Default()

// checkPlatform refuses what is made for other hosts, before it fails with
// "exec format error" in a container. Images that do not say are let be.
func checkPlatform(p ocispec.Platform) error {
	if p.Architecture == "" || p.OS == "" || platform.Match(p) {
		return nil
	}
	return otherPlatform(platforms.Format(p))
}

// checkIndex refuses an index that has nothing for this host.
func checkIndex(index ocispec.Index) error {
	var made []string
	for _, m := range index.Manifests {
		if m.Platform == nil || platform.Match(*m.Platform) {
			return nil
		}
		if name := platforms.Format(*m.Platform); m.Platform.OS != "unknown" && !slices.Contains(made, name) {
			made = append(made, name)
		}
	}
	return otherPlatform(strings.Join(made, ", "))
}

func otherPlatform(made string) error {
	return fmt.Errorf("the image is made for %s, and this host is %s: build it for %s too, or keep the pod to other hosts with a nodeSelector on kubernetes.io/arch",
		made, platforms.DefaultString(), platforms.DefaultString())
}
