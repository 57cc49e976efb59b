package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubernetes/pkg/credentialprovider"
)

// registryAuthHeader carries credentials to a node's agent as Docker's API does.
const registryAuthHeader = "X-Registry-Auth"

// maxPasswordBytes bounds what is read as a password; tokens of cloud
// registries have a few thousand characters.
const maxPasswordBytes = 64 << 10

// registryFlags say who a registry is asked as.
type registryFlags struct {
	Username      string `placeholder:"NAME" help:"Log in to the registry as this user (default: what docker login has kept)."`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

// registryLogin is a user of a registry.
type registryLogin struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

func (l *registryLogin) header() string {
	data, _ := json.Marshal(l) // of two strings
	return base64.URLEncoding.EncodeToString(data)
}

// login is who the registry of an image is asked as; nil is nobody.
func (f *registryFlags) login(image string, stdin io.Reader) (*registryLogin, error) {
	if f.Username == "" && !f.PasswordStdin {
		return keptLogin(image)
	}
	if f.Username == "" || !f.PasswordStdin {
		return nil, errors.New("--username and --password-stdin go together, as in `shoal image pull NAME --username=me --password-stdin < password`")
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxPasswordBytes))
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	return &registryLogin{f.Username, strings.TrimRight(string(data), "\r\n")}, nil
}

// keptLogin is what docker login has written down for the image's registry.
// What it keeps in a credential store is not read.
func keptLogin(image string) (*registryLogin, error) {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return nil, fmt.Errorf("parse image name %q: %w", image, err)
	}
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil
		}
		dir = filepath.Join(home, ".docker")
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file credentialprovider.DockerConfigJSON
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		return nil, fmt.Errorf("read what docker login has kept: %w", err)
	}
	ring := &credentialprovider.BasicDockerKeyring{}
	ring.Add(nil, file.Auths)
	found, ok := ring.Lookup(named.Name())
	if !ok || found[0].Username == "" {
		return nil, nil
	}
	return &registryLogin{found[0].Username, found[0].Password}, nil
}

// ImagePullCmd is `shoal image pull`.
type ImagePullCmd struct {
	onNodes
	registryFlags
	Name string `arg:"" help:"The image's name, with registry and tag or digest."`
}

// Help is the detail of `shoal image pull --help`.
func (*ImagePullCmd) Help() string { return examples("shoal image pull docker.io/library/nginx:1.29") }

// Run makes each node pull the image.
func (c *ImagePullCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	auth, err := c.login(c.Name, streams.In)
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	progress := newProgressWriter(streams.Out, len(nodes) > 1)
	defer progress.finish()
	return errors.Join(eachNode(nodes, func(node *nodeImages) error {
		return node.pull(ctx, c.Name, auth, func(line imageProgress) { progress.show(node.name, line) })
	})...)
}

// ImagePushCmd is `shoal image push`.
type ImagePushCmd struct {
	onNodes
	registryFlags
	Name string `arg:"" help:"The image's name on the nodes."`
	To   string `placeholder:"NAME" help:"The name to push it as, with registry and tag (default: its own)."`
}

// Help is the detail of `shoal image push --help`.
func (*ImagePushCmd) Help() string {
	return `The first node that has the image sends it.

` + examples("shoal image push registry.example.com/web:v2", "shoal image push web:v2 --to=registry.example.com/web:v2 --username=me --password-stdin < password")
}

// Run has one node push the image.
func (c *ImagePushCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	target := c.To
	if target == "" {
		target = c.Name
	}
	auth, err := c.login(target, streams.In)
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	progress := newProgressWriter(streams.Out, false)
	defer progress.finish()
	var missing error
	for _, node := range nodes {
		err := node.push(ctx, c.Name, c.To, auth, func(line imageProgress) { progress.show(node.name, line) })
		if !errors.Is(err, errNoImage) {
			return err
		}
		missing = err
	}
	return missing
}
