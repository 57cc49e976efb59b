package image

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// ErrRegistryUnavailable says that the registry could not be asked: the name
// of the reason in a container's status.
var ErrRegistryUnavailable = errors.New("RegistryUnavailable")

// registry returns how the registry of name is spoken to: as a hosts.toml in
// one of HostDirs says (mirrors, authorities, plain http), read anew each time,
// else by https. A registry on loopback may also speak http, as Docker has it.
func (s *Store) registry(ctx context.Context, name reference.Named, c Credentials) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: config.ConfigureHosts(ctx, config.HostOptions{
			HostDir: s.hostDir,
			Credentials: func(host string) (string, string, error) {
				return s.credentialsAt(host, name, c)
			},
		}),
	})
}

// credentialsAt gives a pod's credentials to the registry they are for and to
// no mirror of it; a mirror's own are in the host's file.
func (s *Store) credentialsAt(host string, name reference.Named, c Credentials) (string, string, error) {
	own, err := docker.DefaultHost(reference.Domain(name))
	if err != nil {
		return "", "", err
	}
	if host == own || host == reference.Domain(name) {
		return c.Username, c.Password, nil
	}
	for _, m := range s.fileCredentials(host + "/" + reference.Path(name)) {
		return m.Username, m.Password, nil
	}
	return "", "", nil
}

func (s *Store) hostDir(host string) (string, error) {
	for _, root := range s.o.HostDirs {
		dir, err := config.HostDirFromRoot(root)(host)
		if err == nil || !errdefs.IsNotFound(err) {
			return dir, err
		}
	}
	return "", errdefs.ErrNotFound
}

// explain marks errors that are the network's or the registry's trouble.
func explain(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var netErr net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &status):
		if status.StatusCode >= http.StatusInternalServerError || status.StatusCode == http.StatusTooManyRequests {
			return unavailable{err}
		}
	case errors.Is(err, errStalled), errors.As(err, &netErr):
		return unavailable{err}
	}
	return err
}

// unavailable is an error that is ErrRegistryUnavailable and reads as it did.
type unavailable struct{ error }

func (u unavailable) Is(target error) bool { return target == ErrRegistryUnavailable }
func (u unavailable) Unwrap() error        { return u.error }

// mayBeRights reports whether other credentials may fare better: registries
// say that a private image is not found, too.
func mayBeRights(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden || status.StatusCode == http.StatusNotFound
	}
	return errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err)
}
