package kubectl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
)

// NoCluster begins the error of a request that has no cluster to go to.
const NoCluster = "no cluster to talk to: "

// guessedServer is where client-go sends requests when nothing names a server,
// a habit from when the API had an insecure port.
const guessedServer = "http://localhost:8080"

// refuseNowhere makes requests fail with what to do next when nothing names a
// cluster. They fail when they are sent and not before, so that what needs no
// server (--dry-run=client, version --client) works without one.
func refuseNowhere(flags *genericclioptions.ConfigFlags, c *rest.Config) *rest.Config {
	if c.Host != guessedServer || *flags.APIServer != "" {
		return c
	}
	raw, err := flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return c
	}
	for _, cluster := range raw.Clusters {
		if cluster.Server == guessedServer {
			return c
		}
	}
	reason := errors.New(NoCluster + whyNowhere(raw, Search()))
	c.Wrap(func(http.RoundTripper) http.RoundTripper { return refusing{reason} })
	return c
}

// whyNowhere says why the search found no cluster and what to do next.
func whyNowhere(raw clientcmdapi.Config, searched Searched) string {
	switch {
	case len(raw.Contexts) > 0:
		return fmt.Sprintf("the kubeconfig has no current context\n"+
			"Choose one of %s with --context, or for good with `shoal config use-context NAME`.",
			strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", "))
	case searched.Denied:
		return AdminKubeconfig + " is this host's, but only root may read it\n" +
			"Run this command as root, or put the credentials into your kubeconfig with `shoal start --write-kubeconfig`."
	default:
		return "--kubeconfig, $KUBECONFIG, ~/.kube/config and " + AdminKubeconfig + " name none\n" +
			"Start one on this host with `sudo shoal start`, or name one with --kubeconfig."
	}
}

// refusing is a transport that sends nothing.
type refusing struct{ reason error }

func (r refusing) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.reason }

// quietUnreachable keeps client-go from logging, once per try and in a log's
// form, that the server does not answer: the command's own error says it once.
func quietUnreachable() {
	for i, handle := range utilruntime.ErrorHandlers {
		utilruntime.ErrorHandlers[i] = func(ctx context.Context, err error, msg string, keysAndValues ...any) {
			var unreachable *url.Error
			if errors.As(err, &unreachable) && !klog.V(1).Enabled() {
				return
			}
			handle(ctx, err, msg, keysAndValues...)
		}
	}
}
