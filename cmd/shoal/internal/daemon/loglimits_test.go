//go:build linux

package daemon

import "testing"

func TestLogLimits(t *testing.T) {
	for _, c := range []struct {
		size  string
		files int
		bytes int64 // 0 wants an error
	}{
		{"", 0, 10 << 20}, {"1Mi", 2, 1 << 20}, {"5M", 64, 5_000_000},
		{"much", 5, 0}, {"0", 5, 0}, {"-1Mi", 5, 0}, {"1Mi", 1, 0}, {"1Mi", 65, 0},
	} {
		got, err := Config{LogMaxSize: c.size, LogMaxFiles: c.files}.logLimits()
		if (err == nil) != (c.bytes > 0) || (err == nil && got.MaxBytes != c.bytes) {
			t.Errorf("%q, %d: %+v, %v", c.size, c.files, got, err)
		}
	}
}
