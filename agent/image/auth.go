package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	pullsecrets "k8s.io/kubernetes/pkg/credentialprovider/secrets"
)

// Credentials log in to a registry; the zero value is anonymous.
type Credentials struct {
	Username string
	Password string

	secret secret // where they are from; zero: good for every pod of this host
	hash   string // of all that the entry says, as upstream counts it
}

// secret names a pull secret; name is namespace/name.
type secret struct{ uid, name string }

// FromSecret gives the credentials in a pull secret that fit the image,
// the most specific first. Errors never quote the secret's content.
func FromSecret(s *v1.Secret, ref string) ([]Credentials, error) {
	repository, err := Repository(ref)
	if err != nil {
		return nil, err
	}
	if s.Type != v1.SecretTypeDockerConfigJson && s.Type != v1.SecretTypeDockercfg {
		return nil, fmt.Errorf("secret %s/%s has type %s; a pull secret has type %s", s.Namespace, s.Name, s.Type, v1.SecretTypeDockerConfigJson)
	}
	ring, err := pullsecrets.MakeDockerKeyring([]v1.Secret{*s}, credentialprovider.UnionDockerKeyring{})
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s does not hold Docker's JSON; make it with `kubectl create secret docker-registry`", s.Namespace, s.Name)
	}
	return fromRing(ring, repository, secret{string(s.UID), s.Namespace + "/" + s.Name}), nil
}

func fromRing(ring credentialprovider.DockerKeyring, repository string, from secret) []Credentials {
	found, _ := ring.Lookup(repository)
	var out []Credentials
	for _, f := range found {
		out = append(out, Credentials{Username: f.Username, Password: f.Password, secret: from, hash: f.AuthConfigHash})
	}
	return out
}

// fileCredentials are those in the host's own file that fit a repository. The
// file is read each time: it may change, and a pull is rare.
func (s *Store) fileCredentials(repository string) []Credentials {
	if s.o.AuthFile == "" {
		return nil
	}
	data, err := os.ReadFile(s.o.AuthFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file credentialprovider.DockerConfigJSON
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		s.o.Logger.Warn("registry credentials of this host cannot be read; write them as docker login does", "file", s.o.AuthFile, "error", err)
		return nil
	}
	ring := &credentialprovider.BasicDockerKeyring{}
	ring.Add(nil, file.Auths)
	return fromRing(ring, repository, secret{})
}

// Repository is ref's name without tag and digest, for finding credentials.
func Repository(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("parse image name %q: %w", ref, err)
	}
	return named.Name(), nil
}
