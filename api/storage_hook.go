package api

import (
	"context"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/api/storageclass"
)

// ensureStorageRetry is the wait after the default storage class or the
// provisioner's role could not be written.
const ensureStorageRetry = 5 * time.Second

// ensureStorage has the cell have what storageclass.Ensure makes. A split or a
// full disk may stand in the way for a while.
func (s *Server) ensureStorage(ctx context.Context, client kubernetes.Interface, o Options) {
	for {
		err := storageclass.Ensure(ctx, client, records{o.DB})
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("the default storage class is not there yet, will retry", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(ensureStorageRetry):
		}
	}
}

// ProvisionerClientConfig is ClientConfig for what makes and deletes volumes on
// this host: it has the rights of storageclass.User and no others.
func (s *Server) ProvisionerClientConfig() *rest.Config {
	config := s.ClientConfig("shoal-volume-provisioner")
	config.Impersonate = rest.ImpersonationConfig{UserName: storageclass.User}
	return config
}
