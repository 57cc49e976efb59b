package membership

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// serf says a line for every packet that is none, and anybody who reaches the
// port can send those: so many lines are passed on in a period, of so many
// bytes each; the rest are counted.
const (
	logPeriod  = 10 * time.Second
	logLines   = 10
	logLineMax = 200
)

// serfLog passes on what serf logs, one level less urgent: it warns of every
// lost packet.
type serfLog struct {
	log *slog.Logger

	mu      sync.Mutex
	began   time.Time // guarded by mu, as are the counts since
	lines   int
	dropped int
}

func newSerfLog(log *slog.Logger) *serfLog { return &serfLog{log: log} }

// Write implements io.Writer, for one line.
func (l *serfLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if !strings.Contains(line, "[ERR]") {
		l.log.Log(context.Background(), slog.LevelDebug, "membership", "message", line)
		return len(p), nil
	}
	if dropped, ok := l.allow(time.Now()); ok {
		line = strings.ToValidUTF8(line[:min(len(line), logLineMax)], "?")
		l.log.Warn("membership", "message", line, "more", dropped)
	}
	return len(p), nil
}

// allow reports whether a line may be passed on, and how many were not before.
func (l *serfLog) allow(now time.Time) (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.began) >= logPeriod {
		l.began, l.lines = now, 0
	}
	if l.lines >= logLines {
		l.dropped++
		return 0, false
	}
	l.lines++
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}
