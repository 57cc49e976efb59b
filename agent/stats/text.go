package stats

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// ContentType is of the text exposition format that Prometheus reads.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// text writes metrics in Prometheus' text format. Some thousand series come
// of one scrape, so they are written as they are read, without the objects
// the client library makes of each.
type text struct{ buf []byte }

// The kinds of metrics there are here.
const (
	counter = "counter"
	gauge   = "gauge"
)

// family begins the samples of one name.
func (t *text) family(name, kind, help string) {
	t.buf = append(t.buf, "# HELP "...)
	t.buf = append(t.buf, name...)
	t.buf = append(t.buf, ' ')
	t.buf = append(t.buf, help...)
	t.buf = append(t.buf, "\n# TYPE "...)
	t.buf = append(t.buf, name...)
	t.buf = append(t.buf, ' ')
	t.buf = append(t.buf, kind...)
	t.buf = append(t.buf, '\n')
}

// sample writes one line. labels are parts made by labels, without those that
// are empty. at, if not zero, goes with it.
func (t *text) sample(name string, value float64, at time.Time, labels ...string) {
	t.buf = append(t.buf, name...)
	sep := byte('{')
	for _, l := range labels {
		if l != "" {
			t.buf = append(t.buf, sep)
			t.buf = append(t.buf, l...)
			sep = ','
		}
	}
	if sep == ',' {
		t.buf = append(t.buf, '}')
	}
	t.buf = append(t.buf, ' ')
	if value == math.Trunc(value) && math.Abs(value) < 1<<53 {
		t.buf = strconv.AppendInt(t.buf, int64(value), 10)
	} else {
		t.buf = strconv.AppendFloat(t.buf, value, 'g', -1, 64)
	}
	if !at.IsZero() {
		t.buf = append(t.buf, ' ')
		t.buf = strconv.AppendInt(t.buf, at.UnixMilli(), 10)
	}
	t.buf = append(t.buf, '\n')
}

var labelEscape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// labels renders pairs of name and value.
func labels(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i])
		b.WriteString(`="`)
		_, _ = labelEscape.WriteString(&b, pairs[i+1])
		b.WriteByte('"')
	}
	return b.String()
}

func seconds(nanoseconds uint64) float64 { return float64(nanoseconds) / float64(time.Second) }

func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }
