package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	tests := map[string]struct {
		here   greeting
		path   string
		want   []string
		absent string
	}{
		"pod and path": {greeting{Pod: "hw-0"}, "/menu", []string{"Hello, world", "<dd>hw-0</dd>", "<dd>/menu</dd>"}, "node"},
		"with node":    {greeting{Pod: "hw-0", Node: "host1"}, "/", []string{"<dd>host1</dd>"}, ""},
		"escaped path": {greeting{Pod: "hw-0"}, "/%3Cscript%3E", []string{"/&lt;script&gt;"}, "<script>"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			handler(test.here).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, test.path, nil))
			for _, want := range test.want {
				if !strings.Contains(answer.Body.String(), want) {
					t.Errorf("page lacks %q:\n%s", want, answer.Body)
				}
			}
			if test.absent != "" && strings.Contains(answer.Body.String(), test.absent) {
				t.Errorf("page contains %q:\n%s", test.absent, answer.Body)
			}
		})
	}
}
