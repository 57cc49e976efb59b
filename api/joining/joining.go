// Package joining is what admitting a host (gossip/join) asks of the API and of
// the store: join tokens, who has a node's name, the numbers of peers, and the
// settings that hosts of a cell share.
//
// What always holds: a single-use token is used up by one write under the
// version that was read, so that of several hosts one wins; a peer's number is
// claimed under its name and key, so that asking twice gives the same number
// and a second host of that name gets none until the first is forgotten.
//
// Called by the daemon, and by what forgets nodes. It decides nothing.
package joining

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/api/claims"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
	"shoal/store"
)

// Tokens are join tokens in the API.
type Tokens struct{ Client kubernetes.Interface }

// Token implements join.Tokens.
func (t Tokens) Token(ctx context.Context, id string) (token.Stored, bool, error) {
	if !token.ValidID(id) {
		return token.Stored{}, false, nil
	}
	secret, err := t.Client.CoreV1().Secrets(token.Namespace).Get(ctx, token.SecretName(id), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return token.Stored{}, false, nil
	}
	if err != nil {
		return token.Stored{}, false, fmt.Errorf("read join token: %w", err)
	}
	s, ok := token.FromSecret(secret)
	return s, ok && secret.DeletionTimestamp == nil, nil
}

// Use implements join.Tokens.
func (t Tokens) Use(ctx context.Context, id, node string) (bool, error) {
	secrets := t.Client.CoreV1().Secrets(token.Namespace)
	secret, err := secrets.Get(ctx, token.SecretName(id), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil // revoked a moment ago
	}
	if err != nil {
		return false, fmt.Errorf("use up join token: %w", err)
	}
	if s, ok := token.FromSecret(secret); !ok || s.UsedBy != "" {
		return false, nil
	}
	token.MarkUsed(secret, node)
	_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}) // under the version read
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("use up join token: %w", err)
	}
	return true, nil
}

// Names are nodes in the API and members of the cell.
type Names struct {
	Client kubernetes.Interface
	// Member reports whether a member of that name answers.
	Member func(name string) bool
}

// Alive implements join.Names.
func (n Names) Alive(name string) bool { return n.Member(name) }

// Known implements join.Names.
func (n Names) Known(ctx context.Context, name string) (bool, error) {
	_, err := n.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for node %s: %w", name, err)
	}
	return true, nil
}

// TagClaims is where the numbers of peers are claimed.
const TagClaims = "/shoal/claims/tags/"

// FirstTag is the number of the peer that made the cell.
const FirstTag store.Tag = 1

// Tags are peers' numbers.
type Tags struct{ Records claims.Records }

// Claim implements join.Tags.
func (t Tags) Claim(ctx context.Context, name string, key crypto.PublicKey) (uint16, error) {
	ledger, err := t.open(ctx, name, key)
	if err != nil {
		return 0, err
	}
	if mine := ledger.Mine(); len(mine) > 0 {
		return uint16(mine[0]), nil
	}
	n, err := ledger.TakeNext()
	if err == nil && n == 0 { // reserved: no peer's number, drawn when no other is left
		err = errors.Join(claims.ErrFull, ledger.Free(n))
	}
	if err != nil {
		return 0, fmt.Errorf("claim a number for peer %s: %w", name, err)
	}
	return uint16(n), nil
}

// Holder names the peer that has claimed a number, "" if none has.
func (t Tags) Holder(ctx context.Context, tag store.Tag) (string, error) {
	key := TagClaims + strconv.Itoa(int(tag))
	found, err := t.Records.ListRecords(ctx, key)
	if err != nil {
		return "", fmt.Errorf("read peers' numbers: %w", err)
	}
	return nameOf(found[key]), nil
}

// ClaimFirst claims FirstTag for the peer that made the cell.
func (t Tags) ClaimFirst(ctx context.Context, name string, key crypto.PublicKey) error {
	ledger, err := t.open(ctx, name, key)
	if errors.Is(err, join.ErrNameClaimed) {
		return nil // with a key that has been renewed since
	}
	if err == nil {
		_, err = ledger.Take(int(FirstTag))
	}
	if err != nil {
		return fmt.Errorf("claim this peer's number: %w", err)
	}
	return nil
}

func (t Tags) open(ctx context.Context, name string, key crypto.PublicKey) (*claims.Ledger, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of peer %s: %w", name, err)
	}
	sum := sha256.Sum256(der)
	holder := name + " " + hex.EncodeToString(sum[:8])
	found, err := t.Records.ListRecords(ctx, TagClaims)
	if err != nil {
		return nil, fmt.Errorf("read peers' numbers: %w", err)
	}
	for _, other := range found {
		if string(other) != holder && nameOf(other) == name {
			return nil, fmt.Errorf("claim a number for peer %s: %w", name, join.ErrNameClaimed)
		}
	}
	return claims.Open(ctx, t.Records, TagClaims, holder, int(store.MaxTag)+1, 1)
}

func nameOf(holder []byte) string {
	name, _, _ := strings.Cut(string(holder), " ")
	return name
}

// Forget gives the numbers of the peer called name back, so that a host may
// join under that name. No store may write under them any more.
func (t Tags) Forget(ctx context.Context, name string) error {
	found, err := t.Records.ListRecords(ctx, TagClaims)
	if err != nil {
		return fmt.Errorf("read peers' numbers: %w", err)
	}
	for key, holder := range found {
		if _, err := strconv.Atoi(strings.TrimPrefix(key, TagClaims)); err != nil || nameOf(holder) != name {
			continue
		}
		if err := t.Records.DeleteRecord(ctx, key); err != nil {
			return fmt.Errorf("give back the number of peer %s: %w", name, err)
		}
	}
	return nil
}
