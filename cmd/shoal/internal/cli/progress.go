package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// reportEvery is how often a transfer reports; a person sees no finer steps.
const reportEvery = 100 * time.Millisecond

// progressWriter shows the progress of image transfers: one line per node that
// changes in place on a terminal, JSON lines elsewhere.
type progressWriter struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	many     bool   // several nodes: name the node, keep no live line
	live     string // guarded by mu: what stands on the terminal's last line
}

func newProgressWriter(out io.Writer, many bool) *progressWriter {
	file, ok := out.(*os.File)
	return &progressWriter{out: out, many: many, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

// show reports one step on one node.
func (p *progressWriter) show(node string, line imageProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		_ = writeJSON(p.out, struct {
			Node string `json:"node"`
			imageProgress
		}{node, line})
		return
	}
	text := progressText(line)
	if p.many {
		text = node + ": " + text
	}
	switch {
	case text == "" || text == p.live:
	case isSettled(line):
		p.clear()
		fmt.Fprintln(p.out, text)
	case !p.many:
		p.clear()
		fmt.Fprint(p.out, text)
		p.live = text
	}
}

// isSettled tells a result, which stays on the screen, from a step on the way.
func isSettled(line imageProgress) bool {
	return line.Image != "" && (line.Done || line.Status == "loaded" || line.Status == "pulled" || line.Status == "pushed" || line.Status == notReady)
}

// finish leaves the terminal on a fresh line.
func (p *progressWriter) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *progressWriter) clear() {
	if p.live != "" {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", len(p.live))+"\r")
		p.live = ""
	}
}

func progressText(line imageProgress) string {
	text := strings.TrimSpace(line.Image + " " + line.Status)
	switch {
	case isSettled(line):
		return text
	case line.Total > 0:
		return fmt.Sprintf("%s %s of %s (%d%%)", text, humanBytes(line.Bytes), humanBytes(line.Total),
			100*line.Bytes/line.Total)
	case line.Bytes > 0:
		return text + " " + humanBytes(line.Bytes)
	}
	return text
}

// countingReader reports how much of an archive has been sent.
type countingReader struct {
	io.ReadCloser
	total  int64
	report func(imageProgress)

	read int64
	last time.Time
}

func (c *countingReader) Read(buffer []byte) (int, error) {
	n, err := c.ReadCloser.Read(buffer)
	c.read += int64(n)
	if now := time.Now(); err == io.EOF || now.Sub(c.last) >= reportEvery {
		c.last = now
		c.report(imageProgress{Status: "sending", Bytes: c.read, Total: c.total})
	}
	return n, err
}

func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// humanBytes prints a size in the units docker and ctr use.
func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < len("KMGTP")-1 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}

// shortID is enough of a digest to tell images apart.
func shortID(id string) string {
	const length = 12
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(length, len(id))]
}
