package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
)

// agentAt connects to a server that answers for a node's agent. The agent's own
// end of this protocol is tested in agent/, both together in test/e2e.
func agentAt(t *testing.T, handle http.HandlerFunc) *nodeImages {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	nodes, err := connectImages(&rest.Config{Host: server.URL}, []string{"host1"})
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0]
}

func TestImageLoadStreamsAndFollows(t *testing.T) {
	var path, kind, got string
	agent := agentAt(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		path, kind, got = r.Method+" "+r.URL.Path, r.Header.Get("Content-Type"), string(body)
		fmt.Fprintln(w, `{"status":"reading"}`)
		fmt.Fprintln(w, `{"image":"hello:latest","status":"unpacking"}`)
		fmt.Fprintln(w, `{"image":"hello:latest","status":"loaded"}`)
		fmt.Fprintln(w, `{"status":"loaded","done":true}`)
	})
	var steps []string
	err := agent.load(t.Context(), io.NopCloser(strings.NewReader("archive")), -1, func(line imageProgress) {
		if line.Image != "" {
			steps = append(steps, line.Status)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if path != "POST /api/v1/nodes/host1/proxy/shoal/v1/images" || kind != "application/x-tar" || got != "archive" {
		t.Errorf("sent %q of %q to %q", got, kind, path)
	}
	if strings.Join(steps, " ") != "unpacking loaded" {
		t.Errorf("reported %q", steps)
	}
}

func TestImageRefusals(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		want   string
		absent bool
	}{
		"error line":   {200, `{"status":"reading"}` + "\n" + `{"status":"failed","done":true,"error":"disk full"}`, "pull x on host1: disk full", false},
		"not done":     {200, `{"status":"reading"}`, "the answer broke off", false},
		"broken off":   {200, `{"status":"rea`, "the answer broke off", false},
		"agent's text": {400, "invalid reference\n", "pull x on host1: invalid reference", false},
		"no image":     {404, "not here", "no such image", true},
		"server":       {404, `{"kind":"Status","message":"nodes \"host1\" not found"}`, `nodes "host1" not found`, false},
		"empty":        {502, "", "502 Bad Gateway", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			agent := agentAt(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/nodes/host1/proxy/shoal/v1/images/pull" || r.FormValue("ref") != "x" {
					t.Errorf("asked for %s", r.URL)
				}
				if data, _ := base64.URLEncoding.DecodeString(r.Header.Get(registryAuthHeader)); string(data) != `{"username":"u","password":"p"}` {
					t.Errorf("credentials %q", data)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			err := agent.pull(t.Context(), "x", &registryLogin{"u", "p"}, func(imageProgress) {})
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, errNoImage) != test.absent {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestProgressOffATerminalIsJSONLines(t *testing.T) {
	var out bytes.Buffer
	progress := newProgressWriter(&out, false)
	progress.show("host1", imageProgress{Status: "sending", Bytes: 1, Total: 2})
	progress.show("host1", imageProgress{Image: "hello", Status: "loaded"})
	progress.finish()
	want := `{"node":"host1","status":"sending","bytes":1,"total":2}
{"node":"host1","image":"hello","status":"loaded"}
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	tests := map[string]struct {
		many bool
		want string
	}{
		"one node": {false, "sending 512 B of 1.0 KiB (50%)\r                              \rhello unpacking\r               \rhello loaded\n"},
		"many":     {true, "host1: hello loaded\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			progress := &progressWriter{out: &out, terminal: true, many: test.many}
			progress.show("host1", imageProgress{Status: "sending", Bytes: 512, Total: 1024})
			progress.show("host1", imageProgress{Image: "hello", Status: "unpacking"})
			progress.show("host1", imageProgress{Image: "hello", Status: "loaded"})
			progress.show("host1", imageProgress{Done: true})
			progress.finish()
			if out.String() != test.want {
				t.Errorf("printed %q, want %q", out.String(), test.want)
			}
		})
	}
}

// TestImageLoadSharesWithOtherNodes: one node gets the archive, and the others
// get its images from that one, those that are ready.
func TestImageLoadSharesWithOtherNodes(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, path, _ := strings.Cut(r.URL.Path, "/nodes")
		switch {
		case path == "":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"NodeList","apiVersion":"v1","items":[
				{"metadata":{"name":"a"},"status":{"conditions":[{"type":"Ready","status":"Unknown"}]}},
				{"metadata":{"name":"b"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
				{"metadata":{"name":"c"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}]}`)
			return
		case strings.HasSuffix(path, "/share"):
			fmt.Fprintln(w, `{"image":"hello:latest","status":"pulling","bytes":1}`)
		}
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, path+"?"+r.URL.RawQuery+" "+string(body))
		fmt.Fprintln(w, `{"image":"hello:latest","status":"loaded"}`)
		fmt.Fprintln(w, `{"status":"loaded","done":true}`)
	}))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	command := ImageLoadCmd{File: "-"}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	command.Server = server.URL
	err := command.Run(t.Context(), genericiooptions.IOStreams{In: strings.NewReader("archive"), Out: &out, ErrOut: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/b/proxy/shoal/v1/images? archive", "/c/proxy/shoal/v1/images/share?from=b&ref=hello%3Alatest "}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	for _, line := range []string{`"node":"a","image":"hello:latest","status":"not sent`, `"node":"b","image":"hello:latest","status":"loaded"`, `"node":"c","image":"hello:latest","status":"loaded"`} {
		if strings.Count(out.String(), line) != 1 {
			t.Errorf("%s is not once in\n%s", line, out.String())
		}
	}
}

func TestRegistryLogin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	login := func(f registryFlags, image, stdin string) string {
		l, err := f.login(image, strings.NewReader(stdin))
		switch {
		case err != nil:
			return "refused"
		case l == nil:
			return "nobody"
		}
		return l.Username + " " + l.Password
	}
	if got := login(registryFlags{}, "reg:5000/x", ""); got != "nobody" {
		t.Errorf("without a file: %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"reg:5000":{"auth":"dTpwOnE="}},"credsStore":"desktop"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		flags registryFlags
		image string
		want  string
	}{
		{registryFlags{}, "reg:5000/x", "u p:q"},
		{registryFlags{}, "other:5000/x", "nobody"},
		{registryFlags{Username: "me", PasswordStdin: true}, "reg:5000/x", "me secret"},
		{registryFlags{Username: "me"}, "reg:5000/x", "refused"},
		{registryFlags{PasswordStdin: true}, "reg:5000/x", "refused"},
		{registryFlags{}, "NOT A NAME", "refused"},
	} {
		if got := login(test.flags, test.image, "secret\n"); got != test.want {
			t.Errorf("%+v for %s: %s, want %s", test.flags, test.image, got, test.want)
		}
	}
}

func TestPrintImages(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	rows := []imageRow{
		{"host1", nodeImage{Name: "hello:latest", ID: "sha256:0123456789abcdef", SizeBytes: 5 << 20, CreatedAt: now.Add(-time.Hour)}},
		{"host2", nodeImage{Name: "web:v2", ID: "", SizeBytes: 10}},
	}
	want := map[string]string{
		"table": "NAME           ID             SIZE      AGE         NODE\n" +
			"hello:latest   0123456789ab   5.0 MiB   60m         host1\n" +
			"web:v2                        10 B      <unknown>   host2\n",
		"name": "hello:latest\nweb:v2\n",
	}
	for format, want := range want {
		var out bytes.Buffer
		if err := printImages(&out, format, rows, now); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", format, out.String(), want)
		}
	}
	var out bytes.Buffer
	if err := printImages(&out, "json", rows, now); err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			Node, Name string
			SizeBytes  int64
		}
	}
	if err := json.Unmarshal(out.Bytes(), &list); err != nil || len(list.Items) != 2 || list.Items[0].SizeBytes != 5<<20 || list.Items[1].Node != "host2" {
		t.Errorf("json is %s (%v)", out.Bytes(), err)
	}
}
