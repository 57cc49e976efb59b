package agent

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// as asks the agent with a token, or with a certificate, or with neither.
func (h *host) as(token, certFile, keyFile, path string) (int, string) {
	h.t.Helper()
	config, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA, CertFile: certFile, KeyFile: keyFile}})
	if err != nil {
		h.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "https://"+h.agent.o.ListenAddr+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data)
}

// TestCallers: who may scrape, and no more than that.
func TestCallers(t *testing.T) {
	h := newHost(t, "callers")
	ctx := context.Background()
	for _, name := range []string{"prometheus", "nobody"} {
		if _, err := peer.Client.CoreV1().ServiceAccounts("default").Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// As kube-prometheus has it.
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "prometheus-k8s"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}},
		{NonResourceURLs: []string{"/metrics", "/metrics/slis"}, Verbs: []string{"get"}},
	}}
	if _, err := peer.Client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "prometheus-k8s"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "prometheus-k8s"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "prometheus"}}}
	if _, err := peer.Client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token := func(account string) string {
		out, err := peer.Client.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, &authnv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status.Token
	}
	good, poor := token("prometheus"), token("nobody")
	h.eventually("the role to be known", func() bool {
		h.agent.callers.rights.RemoveAll(func(any) bool { return true })
		code, _ := h.as(good, "", "", "/metrics/resource")
		return code == http.StatusOK
	})
	for name, test := range map[string]struct {
		token, cert, key, path string
		want                   int
		says                   string
	}{
		"no credentials":               {path: "/metrics/resource", want: http.StatusUnauthorized, says: "Unauthorized"},
		"no credentials, health":       {path: "/healthz", want: http.StatusUnauthorized},
		"a made-up token":              {token: "abc.def.ghi", path: "/metrics/resource", want: http.StatusUnauthorized},
		"a scraper":                    {token: good, path: "/metrics/cadvisor", want: http.StatusOK, says: "machine_cpu_cores"},
		"a scraper, again":             {token: good, path: "/metrics/resource", want: http.StatusOK, says: "node_cpu_usage_seconds_total"},
		"a scraper that wants stats":   {token: good, path: "/stats/summary", want: http.StatusForbidden, says: "subresource(s)=[stats]"},
		"a scraper that wants pods":    {token: good, path: "/pods", want: http.StatusForbidden},
		"a scraper that wants exec":    {token: good, path: "/exec/default/a/b", want: http.StatusForbidden},
		"a detour to what is not its":  {token: good, path: "/metrics/../pods", want: http.StatusForbidden},
		"an account without the right": {token: poor, path: "/metrics/resource", want: http.StatusForbidden, says: "system:serviceaccount:default:nobody"},
		"the administrator":            {cert: peer.PKI.Admin, key: peer.PKI.AdminKey, path: "/stats/summary", want: http.StatusOK},
		"a node's certificate":         {cert: peer.PKI.Node, key: peer.PKI.NodeKey, path: "/pods", want: http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			code, body := h.as(test.token, test.cert, test.key, test.path)
			if code != test.want || !strings.Contains(body, test.says) {
				t.Errorf("%d %.200q, want %d with %q", code, body, test.want, test.says)
			}
		})
	}
	h.t = t
}
