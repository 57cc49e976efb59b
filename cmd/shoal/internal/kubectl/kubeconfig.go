package kubectl

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/tools/clientcmd"
)

// AdminKubeconfig is where a daemon with the default data directory leaves the
// credentials of its administrator. Only tests change it.
var AdminKubeconfig = "/var/lib/shoal/admin.kubeconfig"

// A Searched says where a cluster was looked for and found when no flag named
// one.
type Searched struct {
	// Path is the daemon's own kubeconfig if that has to serve, else empty.
	Path string
	// Denied is set when the daemon's kubeconfig is there but not readable.
	Denied bool
}

// Search looks for a cluster in $KUBECONFIG, then ~/.kube/config, then the
// daemon's own kubeconfig. It reads the files once per process.
func Search() Searched { return searchOnce() }

var searchOnce = sync.OnceValue(func() Searched {
	return search(clientcmd.NewDefaultClientConfigLoadingRules(), AdminKubeconfig)
})

func search(rules *clientcmd.ClientConfigLoadingRules, adminPath string) Searched {
	config, err := rules.Load()
	if err != nil || len(config.Clusters) > 0 {
		return Searched{} // an error in the user's file is reported when it is used
	}
	file, err := os.Open(adminPath)
	switch {
	case err == nil:
		_ = file.Close()
		return Searched{Path: adminPath}
	case errors.Is(err, fs.ErrPermission):
		return Searched{Denied: true}
	default:
		return Searched{}
	}
}

// UseSearchedKubeconfig points parsed connection flags at the daemon's
// kubeconfig when neither a flag nor a file of the user's names a cluster.
func UseSearchedKubeconfig(flags *genericclioptions.ConfigFlags) {
	if *flags.KubeConfig != "" || *flags.APIServer != "" {
		return
	}
	*flags.KubeConfig = Search().Path
}
