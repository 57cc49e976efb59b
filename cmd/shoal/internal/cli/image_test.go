package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			err := agent.pull(t.Context(), "x", func(imageProgress) {})
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

func TestArchiveFromAStream(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	stream, err := openArchive("-", strings.NewReader("archive"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.replayable(true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		content, size, err := stream.reader()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || string(got) != "archive" || size != int64(len(got)) {
			t.Errorf("read %q of %d, %v", got, size, err)
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
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
