package api_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"

	"shoal/api"
)

// stalled hears how writing to a client that takes nothing ended.
var stalled = make(chan error, 1)

// mountExtra serves two paths of the tests' own beside the API.
func mountExtra(o *api.Options) {
	mux := http.NewServeMux()
	mux.HandleFunc("/extra/who", func(w http.ResponseWriter, r *http.Request) {
		user, _ := request.UserFrom(r.Context())
		if _, bounded := r.Context().Deadline(); bounded {
			http.Error(w, "upstream's limit of a minute holds here", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, user.GetName())
	})
	mux.HandleFunc("/extra/stream", func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 64<<10)
		for {
			err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			if err == nil {
				_, err = w.Write(chunk)
			}
			if err != nil {
				stalled <- err
				return
			}
		}
	})
	o.Extra = map[string]http.Handler{"/extra/": mux}
}

func extraClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func adminConfig() *rest.Config {
	return &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA, CertFile: peer.PKI.Admin, KeyFile: peer.PKI.AdminKey}}
}

// Extra paths know who asks, and are closed to whom RBAC does not let in.
func TestExtraPathsAreBehindAuthorization(t *testing.T) {
	anonymous := &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA}}
	bob := adminConfig()
	bob.Impersonate.UserName = "bob"
	for _, test := range []struct {
		name   string
		config *rest.Config
		status int
		body   string
	}{{"admin", adminConfig(), http.StatusOK, "shoal-admin"}, {"anonymous", anonymous, http.StatusForbidden, ""}, {"bob", bob, http.StatusForbidden, ""}} {
		response, err := extraClient(t, test.config).Get(peer.URL + "/extra/who")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != test.status || test.body != "" && string(body) != test.body {
			t.Errorf("%s: %s %q, %v; want %d %q", test.name, response.Status, body, err, test.status, test.body)
		}
	}
}

// A handler can bound how long a client may take nothing: deadlines pass
// through all that upstream wraps around it.
func TestExtraPathsCanEndAStalledClient(t *testing.T) {
	response, err := extraClient(t, adminConfig()).Get(peer.URL + "/extra/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	select {
	case err := <-stalled:
		if err == nil {
			t.Error("it ended without a reason")
		}
	case <-time.After(time.Minute):
		t.Error("it writes on and on, or waits for ever")
	}
}
