package secretspec

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tokenStem begins every token. What follows is random for each container,
// so that no argument a user writes can be one.
const tokenStem = "shoal-secret-"

// rootToken ends the token that stands for the path of the root file system:
// the runtime reads the specification from another directory than the one in
// which containerd mounted it.
const rootToken = "root"

// Hidden are the strings of one container's specification that stay out of
// it. The zero value is not usable; only one goroutine may use it.
type Hidden struct {
	prefix string
	values []string
}

// NewHidden starts with nothing hidden.
func NewHidden() *Hidden {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return &Hidden{prefix: tokenStem + hex.EncodeToString(b[:]) + "-"}
}

// Hide keeps value and gives the token that stands for it, which must become
// a whole string of the specification.
func (h *Hidden) Hide(value string) string {
	h.values = append(h.values, value)
	return h.prefix + strconv.Itoa(len(h.values)-1)
}

// Empty reports whether nothing is hidden.
func (h *Hidden) Empty() bool { return len(h.values) == 0 }

// RootPath is what the specification's root.path must be.
func (h *Hidden) RootPath() string { return h.prefix + rootToken }

// redacted stands for a hidden string in a message.
const redacted = "[secret]"

// Redact takes hidden strings out of text: a runtime's errors quote commands.
func (h *Hidden) Redact(text string) string {
	for _, v := range h.values {
		if v == "" {
			continue
		}
		// As it is, and as Go's %q and JSON write it.
		quoted := strconv.Quote(v)
		text = strings.NewReplacer(v, redacted, quoted[1:len(quoted)-1], redacted).Replace(text)
	}
	return text
}

// encode is the form runtime_linux.c reads: a line with the prefix, a line
// with the number of values, and each value as a JSON string on a line. Later
// versions must read it too: containers outlive the daemon that made them.
func (h *Hidden) encode() ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n%d\n", h.prefix, len(h.values))
	lines := json.NewEncoder(&out) // ends each with a newline, and writes none within
	lines.SetEscapeHTML(false)
	for _, v := range h.values {
		if err := lines.Encode(v); err != nil {
			return nil, fmt.Errorf("encode a secret value: %w", err)
		}
	}
	return out.Bytes(), nil
}

// Check says why value cannot be in an environment, without naming it.
func Check(value string) error {
	switch {
	case !utf8.ValidString(value):
		return fmt.Errorf("the value is not valid UTF-8, which an environment cannot carry; mount it as a file")
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("the value contains a NUL byte, which an environment cannot carry; mount it as a file")
	}
	return nil
}
