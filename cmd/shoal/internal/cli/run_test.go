package cli

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestContainerName(t *testing.T) {
	tests := map[string]string{
		"hello":                          "hello",
		"hello:latest":                   "hello",
		"registry.example:5000/a/web:v2": "web",
		"registry.example:5000/a/web":    "web",
		"web@sha256:0123":                "web",
		"team/Hello_App.x":               "hello-app-x",
		"_":                              "main",
		"":                               "main",
	}
	for image, want := range tests {
		got := containerName(image)
		if got != want {
			t.Errorf("containerName(%q) = %q, want %q", image, got, want)
		}
		if problems := validation.IsDNS1123Label(got); problems != nil {
			t.Errorf("containerName(%q) = %q is not a valid name: %v", image, got, problems)
		}
	}
}
