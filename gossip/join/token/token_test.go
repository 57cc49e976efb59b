package token

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestATokenIsReadAsItIsPrinted(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		tok := New(strings.Repeat("a_-Z", 10) + "123")
		got, err := Parse(tok.String() + "\n")
		if err != nil || got != tok {
			t.Fatalf("%s: %v", tok, err)
		}
		if seen[tok.Secret] {
			t.Fatal("a secret came twice")
		}
		seen[tok.Secret] = true
	}
	good := New(strings.Repeat("a", 43)).String()
	for _, bad := range []string{"", "x", good + "a", strings.ToUpper(good), strings.ReplaceAll(good, ".", ":"), good[:len(good)-1], "-- " + good} {
		if _, err := Parse(bad); !errors.Is(err, ErrForm) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestATokenIsKeptInASecret(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	want := Stored{ID: "abcdef", Secret: "0123456789abcdef", Expires: now.UTC(), SingleUse: true}
	secret := ToSecret(want)
	got, ok := FromSecret(secret)
	if !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	if !got.Expired(now) || got.Expired(now.Add(-time.Second)) || (Stored{}).Expired(now) {
		t.Error("wrong about the end")
	}
	MarkUsed(secret, "host2")
	if got, _ := FromSecret(secret); got.UsedBy != "host2" {
		t.Errorf("%+v", got)
	}
	secret.Data["expiration"] = []byte("tomorrow")
	if got, _ := FromSecret(secret); !got.Expired(now) {
		t.Error("a token whose end cannot be read goes on for ever")
	}
	delete(secret.Data, "usage-shoal-join")
	if _, ok := FromSecret(secret); ok {
		t.Error("a bootstrap token for other uses lets hosts join")
	}
	if !want.Matches("0123456789abcdef") || want.Matches("0123456789abcdeg") || want.Matches("") || (Stored{}).Matches("") {
		t.Error("wrong about secrets")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(New(strings.Repeat("a", 43)).String())
	f.Add("abcdef.0123456789abcdef.")
	f.Fuzz(func(t *testing.T, text string) {
		if tok, err := Parse(text); err == nil && tok.String() != strings.TrimSpace(text) {
			t.Fatalf("%q was read as %s", text, tok)
		}
	})
}
