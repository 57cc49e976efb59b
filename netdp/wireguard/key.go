package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keySize is that of Curve25519 (RFC 7748), in bytes.
const keySize = 32

// Key is a public key. The zero value is none.
type Key [keySize]byte

func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero tells that there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// ParseKey reads a public key as `wg pubkey` prints it.
func ParseKey(text string) (Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != keySize || Key(b).IsZero() {
		return Key{}, fmt.Errorf("read WireGuard key %q: want %d bytes in base64", text, keySize)
	}
	return Key(b), nil
}

// PrivateKey is a host's own. It prints as nothing, so that no log shows it.
type PrivateKey struct{ key *ecdh.PrivateKey }

// String hides the key.
func (PrivateKey) String() string { return "(private)" }

// GoString hides the key.
func (PrivateKey) GoString() string { return "(private)" }

// IsZero tells that there is no key.
func (k PrivateKey) IsZero() bool { return k.key == nil }

// Public is what others are told.
func (k PrivateKey) Public() Key {
	if k.key == nil {
		return Key{}
	}
	return Key(k.key.PublicKey().Bytes())
}

func (k PrivateKey) bytes() [keySize]byte { return [keySize]byte(k.key.Bytes()) }

// NewPrivateKey makes a key.
func NewPrivateKey() (PrivateKey, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("make WireGuard key: %w", err)
	}
	return PrivateKey{key}, nil
}

// LoadKey reads a private key from a file, in base64 as `wg genkey` prints it, and
// makes it when there is none. Only its owner can read the file. Who removes it
// gets another key at the next start, and other hosts follow.
func LoadKey(path string) (PrivateKey, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("read WireGuard key: %w", err)
	}
	return parsePrivate(path, data)
}

func parsePrivate(path string, data []byte) (PrivateKey, error) {
	for len(data) > 0 && (data[len(data)-1] == '\n' || data[len(data)-1] == '\r') {
		data = data[:len(data)-1]
	}
	b, err := base64.StdEncoding.Strict().DecodeString(string(data))
	if err == nil && len(b) == keySize {
		if key, err := ecdh.X25519().NewPrivateKey(b); err == nil {
			return PrivateKey{key}, nil
		}
	}
	return PrivateKey{}, fmt.Errorf("read WireGuard key: %s is no key; remove it, and the next start makes another", path)
}

// makeKey has the key on disk, whole, before it is used.
func makeKey(path string) (PrivateKey, error) {
	key, err := NewPrivateKey()
	if err != nil {
		return key, err
	}
	raw := key.bytes()
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-") // mode 0600
	if err != nil {
		return PrivateKey{}, fmt.Errorf("write WireGuard key: %w", err)
	}
	defer os.Remove(f.Name()) // fails when all went well
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(raw[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("write WireGuard key: %w", err)
	}
	return key, nil
}
