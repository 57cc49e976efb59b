package image

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
)

// access says which pods may use an image that is here without asking its
// registry again: upstream's KubeletEnsureSecretPulledImages (KEP 2535), on by
// default since 1.35, with its default policy NeverVerifyPreloadedImages.
type access struct {
	open    bool // everybody: loaded, or pulled without a pod's secret
	secrets []grant
}

// grant is a secret with which the image was pulled.
type grant struct{ uid, name, hash string }

const (
	labelOpen        = "shoal.image/open"
	labelGrantPrefix = "shoal.image/secret."
	// grantsMax bounds an image's labels; upstream stops at 100.
	grantsMax = 100
)

func accessOf(labels map[string]string) access {
	a := access{open: labels[labelSource] != sourcePull || labels[labelOpen] != ""}
	for key, value := range labels {
		if !strings.HasPrefix(key, labelGrantPrefix) {
			continue
		}
		if fields := strings.Fields(value); len(fields) == 3 {
			a.secrets = append(a.secrets, grant{fields[0], fields[1], fields[2]})
		}
	}
	return a
}

// Open reports whether every pod may use the image as it is.
func (i *Image) Open() bool { return i.access.open }

// Allows reports whether a pod with these credentials may use the image. A
// secret that has changed since counts, as one of another name that says the
// same does.
func (i *Image) Allows(creds []Credentials) bool {
	if i.access.open {
		return true
	}
	for _, c := range creds {
		for _, g := range i.access.secrets {
			if c.secret != (secret{}) && (c.hash == g.hash || c.secret.uid == g.uid && c.secret.name == g.name) {
				return true
			}
		}
	}
	return false
}

// noteAccess writes down with what an image was pulled, beside what was noted
// of the same content before.
func (s *Store) noteAccess(ctx context.Context, record images.Image, before map[string]string, c Credentials) (images.Image, error) {
	labels := map[string]string{labelSource: sourcePull}
	for key, value := range before {
		if key == labelOpen || strings.HasPrefix(key, labelGrantPrefix) && len(labels) < grantsMax {
			labels[key] = value
		}
	}
	if c.secret == (secret{}) {
		labels[labelOpen] = "true"
	} else {
		labels[labelGrantPrefix+c.hash[:min(len(c.hash), 16)]] = c.secret.uid + " " + c.secret.name + " " + c.hash
	}
	if record.Labels == nil {
		record.Labels = map[string]string{}
	}
	maps.Copy(record.Labels, labels)
	updated, err := s.client.ImageService().Update(ctx, record, "labels")
	if err != nil {
		return record, fmt.Errorf("note who may use image %s: %w", record.Name, err)
	}
	return updated, nil
}

// grantsBefore are the labels of an image that is already here, if it is of
// this digest.
func (s *Store) grantsBefore(ctx context.Context, name string, target digest.Digest) map[string]string {
	record, err := s.client.ImageService().Get(ctx, name)
	if err != nil || record.Target.Digest != target || record.Labels[labelSource] != sourcePull {
		return nil
	}
	return record.Labels
}
