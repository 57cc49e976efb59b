//go:build linux

package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestUpstreamSpeaksOnlyWhenItIsNews(t *testing.T) {
	var out bytes.Buffer
	serving := false
	log := slog.New(upstreamHandler{slog.NewTextHandler(&out, nil), func() bool { return serving }})
	log.Error("while starting")
	serving = true
	log.Error("Error on socket receive")
	log.Info("details")
	log.With("key", "value").Error("a real problem")
	if said := out.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "a real problem") || !strings.Contains(said, "key=value") {
		t.Errorf("logged:\n%s", said)
	}
}
