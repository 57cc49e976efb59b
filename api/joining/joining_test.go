package joining

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"shoal/api"
	"shoal/api/apitest"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
)

func key(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

// One server per process, hence one test.
func TestOverTheRealAPI(t *testing.T) {
	peer, err := apitest.Start(context.Background(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := peer.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := peer.Client.CoreV1().Namespaces().Get(t.Context(), token.Namespace, metav1.GetOptions{}); err != nil {
		if _, err := peer.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: token.Namespace}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("tokens", func(t *testing.T) { tokens(t, Tokens{peer.Client}) })
	t.Run("names", func(t *testing.T) {
		names := Names{Client: peer.Client, Member: func(name string) bool { return name == "alive" }}
		if known, err := names.Known(t.Context(), "host7"); known || err != nil {
			t.Errorf("%v, %v", known, err)
		}
		if _, err := peer.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host7"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if known, err := names.Known(t.Context(), "host7"); !known || err != nil {
			t.Errorf("%v, %v", known, err)
		}
		if !names.Alive("alive") || names.Alive("host7") {
			t.Error("wrong about members")
		}
	})
	t.Run("tags", func(t *testing.T) { tags(t, Tags{api.CellRecords(peer.DB)}) })
}

func tokens(t *testing.T, tokens Tokens) {
	if _, ok, err := tokens.Token(t.Context(), "absent"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, ok, err := tokens.Token(t.Context(), "../etc"); ok || err != nil {
		t.Errorf("a path as id: %v, %v", ok, err)
	}
	made := token.New(strings.Repeat("a", 43))
	want := token.Stored{ID: made.ID, Secret: made.Secret, SingleUse: true, Expires: time.Now().Add(time.Hour).Truncate(time.Second).UTC()}
	if _, err := tokens.Client.CoreV1().Secrets(token.Namespace).Create(t.Context(), token.ToSecret(want), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := tokens.Token(t.Context(), made.ID); err != nil || !ok || got != want {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	var mu sync.Mutex
	var racers sync.WaitGroup
	winners := 0
	for range 8 {
		racers.Go(func() {
			won, err := tokens.Use(t.Context(), made.ID, "racer")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if won {
				winners++
			}
		})
	}
	racers.Wait()
	if winners != 1 {
		t.Errorf("%d used up a single-use token", winners)
	}
	if got, _, _ := tokens.Token(t.Context(), made.ID); got.UsedBy != "racer" {
		t.Errorf("%+v", got)
	}
}

func tags(t *testing.T, tags Tags) {
	first := key(t)
	if err := tags.ClaimFirst(t.Context(), "host1", first); err != nil {
		t.Fatal(err)
	}
	if n, err := tags.Claim(t.Context(), "host1", first); err != nil || n != uint16(FirstTag) {
		t.Errorf("%d, %v", n, err)
	}
	second := key(t)
	n, err := tags.Claim(t.Context(), "host2", second)
	if err != nil || n == 0 || n == uint16(FirstTag) {
		t.Fatalf("%d, %v", n, err)
	}
	if again, err := tags.Claim(t.Context(), "host2", second); err != nil || again != n {
		t.Errorf("%d, %v; want %d", again, err, n)
	}
	if _, err := tags.Claim(t.Context(), "host2", key(t)); !errors.Is(err, join.ErrNameClaimed) {
		t.Errorf("another host of the name: %v", err)
	}
	if err := tags.Forget(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if _, err := tags.Claim(t.Context(), "host2", key(t)); err != nil {
		t.Errorf("after forgetting: %v", err)
	}
}
