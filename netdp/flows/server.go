package flows

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	v1 "shoal/api/control/v1"
	"shoal/netdp"
)

// stuckAfter is how long a reader may take nothing.
const stuckAfter = 30 * time.Second

// Datapath is what is told of.
type Datapath interface {
	FollowFlows(ctx context.Context, each func(rec netdp.FlowRecord, more bool) error) error
	RecentFlows() ([]netdp.FlowRecord, error)
}

// Server answers GET v1.FlowsPath.
type Server struct {
	dp    Datapath
	names *Names
	host  string
	log   *slog.Logger
	stuck time.Duration // stuckAfter, shorter in a test
}

// NewServer serves the flows of the host of that name.
func NewServer(dp Datapath, names *Names, host string, log *slog.Logger) *Server {
	return &Server{dp: dp, names: names, host: host, log: log, stuck: stuckAfter}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want, err := readFilter(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines := newLines(w, s.stuck)
	send := func(rec netdp.FlowRecord, more bool) error {
		flow := s.flow(rec)
		if want.matches(&flow) {
			if err := lines.write(&flow); err != nil {
				return err
			}
		}
		if more {
			return nil
		}
		return lines.flush()
	}
	if want.follow {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = lines.flush() // the reader sees at once that it is heard
		err = s.dp.FollowFlows(r.Context(), send)
		if err != nil && r.Context().Err() == nil {
			s.log.Info("a reader of flows was let go", "error", err)
			_ = lines.write(&v1.Flow{Time: time.Now(), Host: s.host, Verdict: v1.Lost, Reason: err.Error()})
			_ = lines.flush()
		}
		return
	}
	recent, err := s.dp.RecentFlows()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	slices.SortFunc(recent, func(a, b netdp.FlowRecord) int { return a.Time.Compare(b.Time) })
	for _, rec := range recent {
		if err := send(rec, true); err != nil {
			return
		}
	}
	_ = lines.flush()
}

// flow puts names to a record.
func (s *Server) flow(rec netdp.FlowRecord) v1.Flow {
	out := v1.Flow{
		Time: rec.Time, Host: s.host, Reason: rec.Reason, Count: rec.Count, Service: rec.Service,
		Source: s.names.End(rec.Src), Destination: s.names.End(rec.Dst), Backend: s.names.End(rec.Backend),
	}
	if rec.Proto != 0 {
		out.Protocol = rec.Proto.String()
	}
	switch rec.Kind {
	case netdp.FlowDrop:
		out.Verdict = v1.Dropped
	case netdp.FlowClose:
		out.Verdict = v1.Closed
	case netdp.FlowLost:
		out.Verdict = v1.Lost
	default:
		out.Verdict = v1.Forwarded
	}
	switch {
	case rec.FromHost:
		out.Source.Node = s.host
	case rec.PodUID != "":
		out.Source.Pod = s.names.Pod(rec.PodUID)
	}
	return out
}

// filter is what a reader wants to see.
type filter struct {
	follow, dropped bool
	namespace, pod  string
}

func readFilter(query url.Values) (f filter, err error) {
	f = filter{
		follow: query.Get("follow") == "true", dropped: query.Get("dropped") == "true",
		namespace: query.Get("namespace"), pod: query.Get("pod"),
	}
	if f.pod != "" && strings.Count(f.pod, "/") != 1 {
		return f, errors.New("read query: pod=" + f.pod + " is not NAMESPACE/NAME")
	}
	return f, nil
}

// matches lets through what says that records were lost, whoever they were of.
func (f filter) matches(flow *v1.Flow) bool {
	if flow.Verdict == v1.Lost {
		return true
	}
	if f.dropped && flow.Verdict != v1.Dropped {
		return false
	}
	pods := []string{flow.Source.Pod, flow.Destination.Pod, flow.Backend.Pod}
	if f.pod != "" && !slices.Contains(pods, f.pod) {
		return false
	}
	if f.namespace == "" {
		return true
	}
	in := func(name string) bool { return strings.HasPrefix(name, f.namespace+"/") }
	return slices.ContainsFunc(pods, in) || in(flow.Service)
}

// lines writes one JSON document per line. A reader that takes none of them for
// too long is an error.
type lines struct {
	buffer  *bufio.Writer
	encode  *json.Encoder
	control *http.ResponseController
	within  time.Duration
}

func newLines(w http.ResponseWriter, within time.Duration) *lines {
	l := &lines{buffer: bufio.NewWriter(w), control: http.NewResponseController(w), within: within}
	l.encode = json.NewEncoder(l.buffer)
	return l
}

func (l *lines) write(flow *v1.Flow) error {
	defer l.deadline()()
	return l.encode.Encode(flow)
}

func (l *lines) flush() error {
	defer l.deadline()()
	if err := l.buffer.Flush(); err != nil {
		return err
	}
	return l.control.Flush()
}

// deadline bounds what follows until the returned function is called: HTTP/2
// ends a stream at a deadline also when nothing is being written. A writer that
// has no deadlines has none.
func (l *lines) deadline() (lift func()) {
	_ = l.control.SetWriteDeadline(time.Now().Add(l.within))
	return func() { _ = l.control.SetWriteDeadline(time.Time{}) }
}
