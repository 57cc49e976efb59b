package api

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestCertificateCache(t *testing.T) {
	calls, name := 0, "ann"
	cached := newCertificateCache(authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		calls++
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, name != "", nil
	}))
	request := func(raw string, lasts time.Duration, header string) *http.Request {
		leaf := &x509.Certificate{Raw: []byte(raw), Subject: pkix.Name{CommonName: "ann"}, NotAfter: time.Now().Add(lasts)}
		r := &http.Request{Header: http.Header{}, TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}
		if header != "" {
			r.Header.Set(header, "x")
		}
		return r
	}
	for _, step := range []struct {
		what  string
		r     *http.Request
		name  string // whom the authenticator behind sees
		calls int
		want  string
	}{
		{"first", request("a", time.Hour, ""), "ann", 1, "ann"},
		{"again", request("a", time.Hour, ""), "nobody", 0, "ann"},
		{"with a token", request("a", time.Hour, "Authorization"), "robot", 1, "robot"},
		{"through a proxy", request("a", time.Hour, "X-Remote-User"), "bob", 1, "bob"},
		{"from a browser", request("a", time.Hour, "Sec-WebSocket-Protocol"), "bob", 1, "bob"},
		{"still", request("a", time.Hour, ""), "nobody", 0, "ann"},
		{"another certificate", request("b", time.Hour, ""), "system:anonymous", 1, "system:anonymous"},
		{"which is not remembered as anonymous", request("b", time.Hour, ""), "ann", 1, "ann"},
		{"refused", request("c", time.Hour, ""), "", 1, ""},
		{"refused again", request("c", time.Hour, ""), "", 1, ""},
		{"expired", request("d", -time.Second, ""), "ann", 1, "ann"},
		{"expired again", request("d", -time.Second, ""), "ann", 1, "ann"},
		{"without", &http.Request{Header: http.Header{}}, "system:anonymous", 1, "system:anonymous"},
	} {
		before := calls
		name = step.name
		response, ok, err := cached.AuthenticateRequest(step.r)
		if err != nil || ok != (step.want != "") || ok && response.User.GetName() != step.want || calls-before != step.calls {
			t.Errorf("%s: %v %v %v with %d calls, want %q with %d", step.what, response, ok, err, calls-before, step.want, step.calls)
		}
	}
}
