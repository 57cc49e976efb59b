package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"

	v1 "shoal/api/control/v1"
)

const (
	// askTimeout is above what a peer takes for a question at its worst.
	askTimeout = 45 * time.Second
	// maxAnswerBytes: a status of 1,024 peers takes some 500 KB.
	maxAnswerBytes = 8 << 20
)

// onPeer are the flags that say which peer of which cell is asked.
type onPeer struct {
	Connection
	Peer string `placeholder:"NAME" help:"Ask this peer instead of the one the kubeconfig names."`
}

// peerClient speaks to one peer in the words of api/control/v1.
type peerClient struct {
	config *rest.Config
	client *http.Client
	base   *url.URL
}

// connect reaches the peer that is meant.
func (c *onPeer) connect(ctx context.Context, streams genericiooptions.IOStreams) (*peerClient, error) {
	config, _, err := c.client(streams)
	if err != nil {
		return nil, err
	}
	named, err := newPeerClient(config)
	if err != nil || c.Peer == "" {
		return named, err
	}
	status, err := named.status(ctx)
	if err != nil {
		return nil, err
	}
	if status.Peer == c.Peer {
		return named, nil
	}
	i := slices.IndexFunc(status.Peers, func(p v1.Peer) bool { return p.Name == c.Peer })
	if i < 0 {
		return nil, fmt.Errorf("no peer is called %q; there are: %s", c.Peer, peerNames(status.Peers))
	}
	if status.Peers[i].API == "" {
		return nil, fmt.Errorf("peer %s does not know where %s serves its API; name it with --server", status.Peer, c.Peer)
	}
	return newPeerClient(configAt(config, status.Peers[i].API))
}

// connectStatus is connect, with what the peer says of itself and the cell.
func (c *onPeer) connectStatus(ctx context.Context, streams genericiooptions.IOStreams) (*peerClient, *v1.Status, error) {
	peer, err := c.connect(ctx, streams)
	if err != nil {
		return nil, nil, err
	}
	status, err := peer.status(ctx)
	return peer, status, err
}

// configAt is config for another peer, which serves its API at address.
func configAt(config *rest.Config, address string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + address
	config.ServerName = "" // it was the other peer's
	return config
}

// Status asks the peer that a kubeconfig names.
func Status(ctx context.Context, kubeconfig string) (*v1.Status, error) {
	c := onPeer{Connection: Connection{Kubeconfig: kubeconfig}}
	peer, err := c.connect(ctx, genericiooptions.IOStreams{In: os.Stdin, Out: io.Discard, ErrOut: os.Stderr})
	if err != nil {
		return nil, err
	}
	return peer.status(ctx)
}

func peerNames(peers []v1.Peer) string {
	names := make([]string, len(peers))
	for i, p := range peers {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

func newPeerClient(config *rest.Config) (*peerClient, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	return &peerClient{config: config, client: client, base: base}, nil
}

func (p *peerClient) status(ctx context.Context) (*v1.Status, error) {
	var status v1.Status
	if err := p.ask(ctx, askTimeout, http.MethodGet, v1.StatusPath, nil, &status); err != nil {
		return nil, err
	}
	return &status, nil
}

// ask sends one request and reads one JSON document.
func (p *peerClient) ask(ctx context.Context, limit time.Duration, method, path string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	response, err := p.send(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswerBytes)).Decode(answer); err != nil {
		return fmt.Errorf("read the answer of %s: %w", p.base.Host, err)
	}
	return nil
}

// send turns every refusal into an error; the body of an answer is the
// caller's to close.
func (p *peerClient) send(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var body io.Reader
	if request != nil {
		content, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(content)
	}
	r, err := http.NewRequestWithContext(ctx, method, p.base.JoinPath(path).String(), body)
	if err != nil {
		return nil, err
	}
	if request != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < http.StatusBadRequest {
		return response, nil
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %s", p.base.Host, response.Status)
	}
	return nil, p.refusal(response, content)
}

// refusal reads the forms of error there are: shoal's own, the API server's
// Status, and that of servers which know nothing of shoal.
func (p *peerClient) refusal(response *http.Response, content []byte) error {
	var own v1.Refusal
	if json.Unmarshal(content, &own) == nil && own.Error != "" {
		return errors.New(own.Error)
	}
	var status metav1.Status
	if json.Unmarshal(content, &status) == nil && status.Kind == "Status" && response.StatusCode != http.StatusNotFound {
		if response.StatusCode == http.StatusForbidden {
			return fmt.Errorf("%s\nThe administrator's kubeconfig may do this; others need a ClusterRole with nonResourceURLs: %s*", status.Message, v1.Prefix)
		}
		return errors.New(status.Message)
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s does not know this request: it is of an older release, or no shoal", p.base.Host)
	}
	return fmt.Errorf("ask %s: %s", p.base.Host, response.Status)
}
