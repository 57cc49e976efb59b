package runtimes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
)

func TestParse(t *testing.T) {
	s, err := Parse([]string{"runsc=io.containerd.runsc.v1:/etc/runsc.toml", "kata=io.containerd.kata.v2", "other=/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	for handler, want := range map[string]Runtime{
		"":      {Handler: "runc", Shim: RuncShim, Binary: "runc"},
		"runc":  {Handler: "runc", Shim: RuncShim, Binary: "runc"},
		"other": {Handler: "other", Shim: RuncShim, Binary: "/bin/true"},
		"kata":  {Handler: "kata", Shim: "io.containerd.kata.v2"},
		"runsc": {Handler: "runsc", Shim: "io.containerd.runsc.v1", Config: "/etc/runsc.toml"},
	} {
		if got, err := s.Get(handler); err != nil || got != want {
			t.Errorf("%q: %+v, %v", handler, got, err)
		}
	}
	if _, err := s.Get("nobody"); err == nil || !strings.Contains(err.Error(), `no runtime for "nobody" is configured`) {
		t.Errorf("an unknown handler: %v", err)
	}
	if s, err = Parse([]string{"runc=/bin/true"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Get(""); got.Binary != "/bin/true" {
		t.Errorf("runc by another path: %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{
		"", "crun", "crun=", "=/bin/true", "Crun=/bin/true", "a/b=/bin/true", "crun=crun", "crun=/no/such/file", "crun=/etc/passwd",
		"x=io.containerd.runc.v2", "x=io.containerd.kata.v2:relative.toml",
	} {
		if s, err := Parse([]string{bad}); err == nil {
			t.Errorf("%q is taken: %+v", bad, s.all)
		}
	}
	if _, err := Parse([]string{"a=/bin/true", "a=/bin/false"}); err == nil {
		t.Error("a handler named twice is taken")
	}
	if _, err := Parse([]string{"runc=/bin/true", "runc=/bin/false"}); err == nil {
		t.Error("runc named twice is taken")
	}
	if _, err := Parse(make([]string, handlersMax)); err == nil {
		t.Error("any number of runtimes is taken")
	}
}

func TestOptions(t *testing.T) {
	read := func(r Runtime, link string) any {
		t.Helper()
		encoded, err := r.Options(link, 0)
		if err != nil {
			t.Fatal(err)
		}
		if encoded == nil {
			return nil
		}
		v, err := typeurl.UnmarshalAny(encoded)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	plain := Runtime{Handler: "runc", Shim: RuncShim, Binary: "runc"}
	if got := read(plain, ""); got != nil {
		t.Errorf("runc alone gets options: %v", got)
	}
	if got, ok := read(plain, "/link").(*options.Options); !ok || got.BinaryName != "/link" {
		t.Errorf("runc by a link: %v", got)
	}
	other := Runtime{Handler: "crun", Shim: RuncShim, Binary: "/usr/bin/crun"}
	if got, ok := read(other, "").(*options.Options); !ok || got.BinaryName != "/usr/bin/crun" {
		t.Errorf("another binary: %v", got)
	}
	if got, ok := read(Runtime{Shim: runscShim, Config: "/c"}, "").(*runtimeoptions.Options); !ok || got.ConfigPath != "/c" || got.TypeUrl != runscOptions {
		t.Errorf("gVisor: %v", got)
	}
}

func TestFeatures(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "new")
	script := "#!/bin/sh\ncase $1 in\n--version) printf 'runc version 1.2.0\\ncommit x\\n' ;;\n" +
		`features) echo '{"mountOptions":["ro","rro"],"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":true}}}}' ;;` + "\nesac\n"
	if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Parse([]string{"new=" + file, "mute=/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	fresh, _ := s.Get("new")
	want := Features{Version: "runc version 1.2.0", UserNamespaces: true, RecursiveReadOnly: true}
	if got := s.Features(context.Background(), fresh); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	mute, _ := s.Get("mute")
	if got := s.Features(context.Background(), mute); got != (Features{}) {
		t.Errorf("one that does not answer: %+v", got)
	}
	status := s.Status(context.Background(), true)
	if len(status) != 4 || status[0].Name != "" || status[1].Name != "runc" || status[3].Name != "new" || !*status[3].Features.UserNamespaces {
		t.Errorf("status %+v", status)
	}
	if status = s.Status(context.Background(), false); *status[3].Features.UserNamespaces {
		t.Error("user namespaces are told of where the host cannot")
	}
}
