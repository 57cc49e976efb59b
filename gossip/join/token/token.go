// Package token is the form of join tokens, printed and stored.
//
// What always holds: a token is `<id>.<secret>.<cell>`; id and secret are those
// of Kubernetes' bootstrap tokens, cell is the hash of the cell's authority, so
// that whoever holds the token knows the cell before saying the secret. It is
// stored as a Secret of type bootstrap.kubernetes.io/token in kube-system, so
// that every peer has it and kubectl can list and revoke it; without the usages
// of Kubernetes' own tokens it gives no access to the API.
//
// Called by the command line, which makes tokens, and by what admits hosts.
package token

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Namespace and namePrefix are where Kubernetes keeps bootstrap tokens.
	Namespace  = metav1.NamespaceSystem
	namePrefix = "bootstrap-token-"

	keyID, keySecret, keyExpiration = "token-id", "token-secret", "expiration"
	keyUsage, keySingleUse          = "usage-shoal-join", "shoal-single-use"
	keyUsedBy                       = "shoal-used-by"
	keyDescription                  = "description"

	alphabet               = "abcdefghijklmnopqrstuvwxyz0123456789"
	idLength, secretLength = 6, 16
)

var form = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})\.([A-Za-z0-9_-]{43})$`)

var idForm = regexp.MustCompile(`^[a-z0-9]{6}$`)

// ValidID reports whether id may be a token's.
func ValidID(id string) bool { return idForm.MatchString(id) }

// ErrForm says that a text is not a join token.
var ErrForm = errors.New("not a join token")

// Token is what a host shows to join.
type Token struct {
	ID, Secret string
	// Cell is pki.CellID of the authority that the cell must have.
	Cell string
}

// New draws a token for a cell.
func New(cell string) Token {
	return Token{ID: draw(idLength), Secret: draw(secretLength), Cell: cell}
}

// draw takes n letters, each equally likely: bytes past the last whole multiple
// of the alphabet are drawn again.
func draw(n int) string {
	const fair = 256 - 256%len(alphabet)
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		if int(b[0]) < fair {
			out = append(out, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return string(out)
}

// Parse reads a token as String prints it.
func Parse(text string) (Token, error) {
	m := form.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Token{}, fmt.Errorf("%w: want ID.SECRET.CELL as `shoal token create` prints it", ErrForm)
	}
	if _, err := base64.RawURLEncoding.DecodeString(m[3]); err != nil {
		return Token{}, fmt.Errorf("%w: its last part is damaged", ErrForm)
	}
	return Token{ID: m[1], Secret: m[2], Cell: m[3]}, nil
}

func (t Token) String() string { return t.ID + "." + t.Secret + "." + t.Cell }

// Stored is a token as the cell keeps it.
type Stored struct {
	ID, Secret string
	Expires    time.Time // zero: never
	SingleUse  bool
	// UsedBy names the host that used up a single-use token.
	UsedBy string
}

// Expired reports whether the token is past its end.
func (s Stored) Expired(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Expires) }

// Matches compares secrets in constant time.
func (s Stored) Matches(secret string) bool {
	return len(s.Secret) == secretLength && subtle.ConstantTimeCompare([]byte(s.Secret), []byte(secret)) == 1
}

// SecretName is the name of the Secret that keeps the token with this id.
func SecretName(id string) string { return namePrefix + id }

// ToSecret returns the object that keeps s.
func ToSecret(s Stored) *corev1.Secret {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: SecretName(s.ID)},
		Type:       corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			keyID: []byte(s.ID), keySecret: []byte(s.Secret), keyUsage: []byte("true"),
			keyDescription: []byte("lets hosts join this cell; made by shoal token create"),
		},
	}
	if !s.Expires.IsZero() {
		secret.Data[keyExpiration] = []byte(s.Expires.UTC().Format(time.RFC3339))
	}
	if s.SingleUse {
		secret.Data[keySingleUse] = []byte("true")
	}
	return secret
}

// FromSecret reads a token; ok is false for a Secret that lets nobody join. One
// whose end cannot be read has ended.
func FromSecret(secret *corev1.Secret) (s Stored, ok bool) {
	data := func(key string) string { return string(secret.Data[key]) }
	if secret.Type != corev1.SecretTypeBootstrapToken || data(keyUsage) != "true" || secret.Name != SecretName(data(keyID)) {
		return s, false
	}
	s = Stored{ID: data(keyID), Secret: data(keySecret), SingleUse: data(keySingleUse) == "true", UsedBy: data(keyUsedBy)}
	if text := data(keyExpiration); text != "" {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil {
			expires = time.Unix(0, 0)
		}
		s.Expires = expires
	}
	return s, true
}

// MarkUsed notes in secret who used it up.
func MarkUsed(secret *corev1.Secret, node string) { secret.Data[keyUsedBy] = []byte(node) }
