package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
)

// onHosts are the flags that say which hosts' datapaths are asked. Any peer
// hands a question on to the host it is for.
type onHosts struct {
	Host []string `placeholder:"NAME" help:"Only this host; may be repeated. All that are ready if empty."`
}

// hostClient asks one host, through the API server's proxy to its agent.
type hostClient struct {
	name   string
	client *http.Client
	base   *url.URL
}

func (h *onHosts) connect(ctx context.Context, c *Connection, streams genericiooptions.IOStreams) ([]*hostClient, error) {
	config, client, err := c.client(streams)
	if err != nil {
		return nil, err
	}
	names := h.Host
	if len(names) == 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			if isReady(&list.Items[i]) {
				names = append(names, list.Items[i].Name)
			}
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no host is ready\nSee `shoal get nodes`; a host registers itself once `shoal start` is up")
	}
	return hostClients(config, names)
}

func hostClients(config *rest.Config, names []string) ([]*hostClient, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	hosts := make([]*hostClient, 0, len(names))
	for _, name := range names {
		hosts = append(hosts, &hostClient{name: name, client: client, base: server.JoinPath("api/v1/nodes", name, "proxy")})
	}
	return hosts, nil
}

// get answers with a body that is the caller's to close, or with why not.
func (h *hostClient) get(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	address := h.base.JoinPath(path)
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	node := nodeImages{name: h.name, client: h.client}
	response, err := node.do(request, "ask")
	if errors.Is(err, errNoImage) {
		return nil, fmt.Errorf("%s does not know this request: it is of an older release, or no shoal", h.name)
	}
	return response, err
}
