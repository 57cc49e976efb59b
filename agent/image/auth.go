package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// dockerAuth is one registry's entry in Docker's configuration file.
type dockerAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"` // base64 of username:password
}

// FromSecret gives the credentials in a pull secret that are for registry.
// Errors never quote the secret's content.
func FromSecret(s *v1.Secret, registry string) ([]Credentials, error) {
	var auths map[string]dockerAuth
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file) != nil {
			return nil, fmt.Errorf("secret %s/%s: key %s is not Docker's JSON", s.Namespace, s.Name, v1.DockerConfigJsonKey)
		}
		auths = file.Auths
	case v1.SecretTypeDockercfg:
		if json.Unmarshal(s.Data[v1.DockerConfigKey], &auths) != nil {
			return nil, fmt.Errorf("secret %s/%s: key %s is not Docker's JSON", s.Namespace, s.Name, v1.DockerConfigKey)
		}
	default:
		return nil, fmt.Errorf("secret %s/%s has type %s; a pull secret has type %s", s.Namespace, s.Name, s.Type, v1.SecretTypeDockerConfigJson)
	}
	var out []Credentials
	for server, a := range auths {
		if serverHost(server) != serverHost(registry) {
			continue
		}
		if c, ok := a.credentials(); ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// serverHost reduces the spellings of a registry ("https://index.docker.io/v1/",
// "docker.io", "host:5000/") to its host.
func serverHost(server string) string {
	if strings.Contains(server, "://") {
		if u, err := url.Parse(server); err == nil {
			server = u.Host
		}
	}
	host, _, _ := strings.Cut(server, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

func (a dockerAuth) credentials() (Credentials, bool) {
	if a.Username != "" {
		return Credentials{Username: a.Username, Password: a.Password}, true
	}
	data, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return Credentials{}, false
	}
	user, password, ok := strings.Cut(string(data), ":")
	return Credentials{Username: user, Password: password}, ok && user != ""
}
