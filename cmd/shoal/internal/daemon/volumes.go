//go:build linux

package daemon

import (
	"fmt"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"shoal/agent/localvolume"
)

// newProvisioner makes what makes this host's persistent volumes. It acts with
// rights of its own: the node's do not include writing volumes.
func (p *peer) newProvisioner(shared informers.SharedInformerFactory) (*localvolume.Provisioner, error) {
	client, err := kubernetes.NewForConfig(p.server.ProvisionerClientConfig())
	if err != nil {
		return nil, fmt.Errorf("make volume provisioner client: %w", err)
	}
	provisioner, err := localvolume.New(localvolume.Options{
		Client: client, Informers: shared, NodeName: p.config.Name, DataDir: p.config.DataDir,
		InUse: p.agent.VolumeInUse, Logger: p.log.With("part", "volumes"),
	})
	if err != nil {
		return nil, fmt.Errorf("make volume provisioner: %w", err)
	}
	return provisioner, nil
}
