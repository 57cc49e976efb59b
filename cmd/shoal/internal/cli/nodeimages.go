package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// maxErrorBytes bounds what is read of a node's error page.
const maxErrorBytes = 64 << 10

// errNoImage says that a node does not have the named image.
var errNoImage = errors.New("no such image")

// nodeImages is the image store of one node, reached through the API server's
// proxy to the agent on that node.
type nodeImages struct {
	name   string
	ready  bool // the cluster says so
	client *http.Client
	base   *url.URL
}

// nodeImage is an image as the agent lists it.
type nodeImage struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`
	Digest    string    `json:"digest"`
	SizeBytes int64     `json:"sizeBytes"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
	Loaded    bool      `json:"loaded,omitempty"`
	Pinned    bool      `json:"pinned,omitempty"`
}

// imageProgress is one line of the agent's progress.
type imageProgress struct {
	Image string `json:"image,omitempty"`
	// Status says what is being done, in a word or two.
	Status string `json:"status,omitempty"`
	// Bytes of Total are done; Total is 0 where it is not known.
	Bytes int64 `json:"bytes,omitempty"`
	Total int64 `json:"total,omitempty"`
	// PeerBytes of Bytes came from other nodes.
	PeerBytes int64  `json:"peerBytes,omitempty"`
	Digest    string `json:"digest,omitempty"`
	Done      bool   `json:"done,omitempty"`
	Error     string `json:"error,omitempty"`
}

func connectImages(config *rest.Config, names []string) ([]*nodeImages, error) {
	hosts, err := hostClients(config, names)
	if err != nil {
		return nil, err
	}
	nodes := make([]*nodeImages, 0, len(hosts))
	for _, h := range hosts {
		nodes = append(nodes, &nodeImages{name: h.name, client: h.client, base: h.base.JoinPath("shoal/v1/images")})
	}
	return nodes, nil
}

// load imports an archive; size is -1 if not known.
func (n *nodeImages) load(ctx context.Context, content io.ReadCloser, size int64, report func(imageProgress)) error {
	counted := &countingReader{ReadCloser: content, total: max(size, 0), report: report, last: time.Now()}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, n.base.String(), counted)
	if err != nil {
		return errors.Join(err, content.Close())
	}
	request.ContentLength = size
	request.Header.Set("Content-Type", "application/x-tar")
	return n.follow(request, "load the archive", func(line imageProgress) {
		if line.Status != "reading" { // the same bytes, as the other end counts them
			report(line)
		}
	})
}

// share gets an image that was loaded on another node from there.
func (n *nodeImages) share(ctx context.Context, ref, from string, report func(imageProgress)) error {
	return n.work(ctx, "share", "get "+ref+" from "+from, url.Values{"ref": {ref}, "from": {from}}, nil, report)
}

func (n *nodeImages) pull(ctx context.Context, ref string, auth *registryLogin, report func(imageProgress)) error {
	return n.work(ctx, "pull", "pull "+ref, url.Values{"ref": {ref}}, auth, report)
}

func (n *nodeImages) push(ctx context.Context, ref, to string, auth *registryLogin, report func(imageProgress)) error {
	return n.work(ctx, "push", "push "+ref, url.Values{"ref": {ref}, "to": {to}}, auth, report)
}

// work has something done with one image, which the query names as ref.
func (n *nodeImages) work(ctx context.Context, operation, what string, query url.Values, auth *registryLogin, report func(imageProgress)) error {
	address := n.base.JoinPath(operation)
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), nil)
	if err != nil {
		return err
	}
	if auth != nil {
		request.Header.Set(registryAuthHeader, auth.header())
	}
	return n.follow(request, what, func(line imageProgress) {
		if line.Done && line.Image == "" {
			line.Image = query.Get("ref")
		}
		report(line)
	})
}

func (n *nodeImages) remove(ctx context.Context, ref string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, n.at(ref), nil)
	if err != nil {
		return err
	}
	response, err := n.do(request, "remove "+ref)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (n *nodeImages) list(ctx context.Context) ([]nodeImage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.base.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := n.do(request, "list images")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var list struct {
		Items []nodeImage `json:"items"`
	}
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list images on %s: read the answer: %w", n.name, err)
	}
	return list.Items, nil
}

// at is the address of one image.
func (n *nodeImages) at(ref string) string {
	address := *n.base
	address.RawQuery = url.Values{"ref": {ref}}.Encode()
	return address.String()
}

// follow sends a request and reports each line of its answer. The status code
// comes before the work, so only the last line says whether it was done.
func (n *nodeImages) follow(request *http.Request, what string, report func(imageProgress)) error {
	response, err := n.do(request, what)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for done := false; !done; {
		var line imageProgress
		if err := lines.Decode(&line); err != nil {
			return fmt.Errorf("%s on %s: the answer broke off, see `shoal image ls` for what was done: %w", what, n.name, err)
		}
		if line.Error != "" {
			return fmt.Errorf("%s on %s: %s", what, n.name, line.Error)
		}
		report(line)
		done = line.Done
	}
	return nil
}

// do sends a request and turns a refusal into an error.
func (n *nodeImages) do(request *http.Request, what string) (*http.Response, error) {
	response, err := n.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < http.StatusBadRequest {
		return response, nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %s", what, n.name, response.Status)
	}
	return nil, n.refusal(response, what, body)
}

// refusal reads the two forms of error there are: the API server's Status and
// the agent's plain text.
func (n *nodeImages) refusal(response *http.Response, what string, body []byte) error {
	var status metav1.Status
	reason := strings.TrimSpace(string(body))
	fromServer := json.Unmarshal(body, &status) == nil && status.Kind == "Status"
	if fromServer {
		reason = status.Message
	}
	if reason == "" {
		reason = response.Status
	}
	if response.StatusCode == http.StatusNotFound && !fromServer {
		return fmt.Errorf("%s on %s: %w: %s", what, n.name, errNoImage, reason)
	}
	return fmt.Errorf("%s on %s: %s", what, n.name, reason)
}
