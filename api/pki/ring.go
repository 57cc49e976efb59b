package pki

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

const (
	// ringKeyBytes selects AES-256 in memberlist.
	ringKeyBytes = 32
	// maxRingKeys: a rotation has two keys for as long as it lasts; more than a
	// few mean that rotations were begun and never ended.
	maxRingKeys = 8
)

// NewRingKey draws a key for the gossip keyring.
func NewRingKey() []byte {
	key := make([]byte, ringKeyBytes)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	return key
}

// EncodeRing is the form of a keyring in files and records: a key per line in
// base64; the first encrypts, all decrypt.
func EncodeRing(keys [][]byte) []byte {
	var out strings.Builder
	for _, key := range keys {
		out.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	}
	return []byte(out.String())
}

// DecodeRing reads the form of EncodeRing.
func DecodeRing(data []byte) ([][]byte, error) {
	var keys [][]byte
	for line := range strings.Lines(string(data)) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil || !slices.Contains([]int{16, 24, 32}, len(key)) {
			return nil, errors.New("read gossip keyring: a line is not a key of 16, 24 or 32 bytes in base64")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(keys) > maxRingKeys {
		return nil, fmt.Errorf("read gossip keyring: it has %d keys, want 1 to %d", len(keys), maxRingKeys)
	}
	return keys, nil
}

func ensureRing(path string) error {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return WriteFile(path, EncodeRing([][]byte{NewRingKey()}), 0o600)
	}
	if err == nil {
		_, err = DecodeRing(data)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
