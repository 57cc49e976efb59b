package wire

import (
	"fmt"

	"github.com/miekg/dns"
)

// Text is a name in wire form as text, with a dot at its end and what is no
// plain character escaped.
func Text(name []byte) (string, error) {
	text, _, err := dns.UnpackDomainName(name, 0)
	if err != nil {
		return "", fmt.Errorf("read name: %w", err)
	}
	return text, nil
}

// FromText is the inverse, in lower case.
func FromText(text string) ([]byte, error) {
	buf := make([]byte, maxNameLen)
	n, err := dns.PackDomainName(dns.CanonicalName(text), buf, 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("write name %q: %w", text, err)
	}
	return buf[:n], nil
}
