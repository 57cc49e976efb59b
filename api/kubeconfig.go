package api

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"shoal/api/pki"
)

// WriteKubeconfig writes the administrator's kubeconfig for the API at server
// (https://HOST:PORT) to path, with mode 0600 and the certificates inlined.
func WriteKubeconfig(path, server string, files pki.Files) error {
	config, err := adminConfig(server, files)
	if err != nil {
		return err
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return pki.WriteFile(path, data, 0o600)
}

// MergeKubeconfig adds the cell to the user's kubeconfig at path, leaving
// everything else in it as it is, and makes it the current context.
func MergeKubeconfig(path, server string, files pki.Files) error {
	config, err := adminConfig(server, files)
	if err != nil {
		return err
	}
	have, err := clientcmd.LoadFromFile(path)
	switch {
	case os.IsNotExist(err):
		have = clientcmdapi.NewConfig()
	case err != nil:
		return fmt.Errorf("read kubeconfig %s: %w; it was left as it is", path, err)
	}
	have.Clusters[contextName] = config.Clusters[contextName]
	have.AuthInfos[contextName] = config.AuthInfos[contextName]
	have.Contexts[contextName] = config.Contexts[contextName]
	have.CurrentContext = contextName
	data, err := clientcmd.Write(*have)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create kubeconfig directory: %w", err)
	}
	return pki.WriteFile(path, data, 0o600)
}

// contextName is cluster, user and context in one.
const contextName = "shoal"

func adminConfig(server string, files pki.Files) (*clientcmdapi.Config, error) {
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	cert, err := os.ReadFile(files.Admin)
	if err != nil {
		return nil, fmt.Errorf("read admin certificate: %w", err)
	}
	key, err := os.ReadFile(files.AdminKey)
	if err != nil {
		return nil, fmt.Errorf("read admin key: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[contextName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	return config, nil
}
