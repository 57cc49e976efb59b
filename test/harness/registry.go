package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PushImage puts an image into a registry, as the repository at that URL, which
// ends in /v2/NAME.
func PushImage(ctx context.Context, repository, tag string, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("read layers: %w", err)
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		content, err := layer.Compressed()
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if err := upload(ctx, http.MethodPost, repository+"/blobs/uploads/?digest="+digest.String(), "application/octet-stream", content); err != nil {
			return err
		}
	}
	digest, err := image.ConfigName()
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := upload(ctx, http.MethodPost, repository+"/blobs/uploads/?digest="+digest.String(), "application/octet-stream", bytes.NewReader(config)); err != nil {
		return err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	kind, err := image.MediaType()
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	return upload(ctx, http.MethodPut, repository+"/manifests/"+tag, string(kind), bytes.NewReader(manifest))
}

func upload(ctx context.Context, method, address, kind string, content io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return fmt.Errorf("push to %s: %w", address, err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("push to %s: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("push to %s: %s", address, response.Status)
	}
	return nil
}
