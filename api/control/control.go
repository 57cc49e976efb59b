// Package control serves what people steer a cell with, below /shoal/v1/ of
// any peer's API server: status, backup, leave, forget, key rotation. The words
// spoken are in api/control/v1.
//
// What always holds: the API server has authenticated and authorized a request
// before it comes here (mount it with api.Options.Extra); every request is
// bounded in body, time and number; a question changes nothing; what is done to
// the cell is logged with who asked for it.
//
// Facts come through the interfaces below, from whoever has them. Called by the
// daemon only; it holds no state of the cell itself.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"

	v1 "shoal/api/control/v1"
	"shoal/store"
)

// Store is this peer's records. *store.DB is one.
type Store interface {
	Actor() store.Actor
	Version() store.Version
	Stats() store.Stats
	Fingerprints() store.Fingerprints
	Count(store.Range, store.Version) (int64, error)
	List(store.Range, store.Version) (iter.Seq2[store.Entry, error], store.Version, error)
}

// Host is what this peer's machine tells and does.
type Host interface {
	// Self is this peer; name, addresses and versions are enough.
	Self() v1.Peer
	Certificates() ([]v1.Certificate, error)
	Disk() (v1.Disk, error)
	// Paths says how this host's pods reach those of others.
	Paths() []v1.Path
	// CellFiles reads the files of the cell's identity that are not records, by
	// their path below the data directory.
	CellFiles() (map[string][]byte, error)
	// RemoveNode deletes the Node object; a missing one is no error.
	RemoveNode(ctx context.Context, name string) error
	// Depart stops this host's pods, unless they are kept, ends its agent and
	// deletes its Node object. The API and gossip go on.
	Depart(ctx context.Context, keepPods bool) error
	// Quit begins to end the daemon and returns.
	Quit()
}

// Encrypting is a Host that tells what encrypts on it; empty: nothing does.
type Encrypting interface{ EncryptedBy() string }

// Alarming is a Host that knows of alarms of its own.
type Alarming interface {
	Alarms() []v1.Alarm
}

// Members is what gossip knows. A cell without gossip has one peer: nil.
type Members interface {
	// Peers are all members, this one included, also those that failed.
	Peers() []v1.Peer
	// Alarms are those of the cell, such as divergence and clocks ahead.
	Alarms() []v1.Alarm
	// Leave tells the others and returns once they can be expected to know.
	Leave(ctx context.Context) error
	// Forget removes a member that is not alive.
	Forget(ctx context.Context, name string) error
	// RotateKeys replaces the key that gossip is encrypted with, on all peers.
	RotateKeys(ctx context.Context) error
}

// Encryption is the cell's choice whether what pods of two hosts say is encrypted.
type Encryption interface {
	Encrypts(ctx context.Context) (bool, error)
	// SetEncryption tells whether that changed anything.
	SetEncryption(ctx context.Context, on bool) (changed bool, err error)
}

// Options are what a Server needs.
type Options struct {
	// Cell names the cell, see pki.CellID.
	Cell    string
	Store   Store
	Host    Host
	Members Members // nil for a cell of one peer
	// Encryption is nil where there is no choice.
	Encryption Encryption
	Logger     *slog.Logger
	// Now defaults to time.Now.
	Now func() time.Time
}

const (
	// maxBodyBytes: the requests there are have a name or two.
	maxBodyBytes = 64 << 10
	// actTimeout bounds one question or deed.
	actTimeout = 30 * time.Second
	// leaveTimeout has room for pods that take their grace period to stop.
	leaveTimeout = 10 * time.Minute
	// maxRequests and maxBackups are served at once; a backup reads the whole
	// store, two at a time are one by hand beside one by timer.
	maxRequests, maxBackups = 32, 2
)

// Server answers the requests.
type Server struct {
	Options
	mux      *http.ServeMux
	requests chan struct{}
	backups  chan struct{}
}

// New returns the handler to mount at v1.Prefix.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{Options: o, mux: http.NewServeMux(), requests: make(chan struct{}, maxRequests), backups: make(chan struct{}, maxBackups)}
	s.mux.Handle("GET "+v1.StatusPath, s.act(actTimeout, s.status))
	s.mux.Handle("POST "+v1.LeavePath, s.act(leaveTimeout, s.leave))
	s.mux.Handle("POST "+v1.ForgetPath, s.act(actTimeout, s.forget))
	s.mux.Handle("POST "+v1.RotateKeysPath, s.act(actTimeout, s.rotateKeys))
	if o.Encryption != nil {
		s.mux.Handle("POST "+v1.EncryptionPath, s.act(actTimeout, s.setEncryption))
	}
	s.mux.HandleFunc("GET "+v1.BackupPath, s.backup)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Sprintf("%s %s is nothing this peer knows; is it of an older release?", r.Method, r.URL.Path))
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// refusal is an error for the one who asks, with the status that fits it.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refusef(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// act bounds a request that is answered with one JSON document.
func (s *Server) act(limit time.Duration, do func(r *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !enter(s.requests) {
			refuse(w, http.StatusTooManyRequests, "this peer answers too many such requests already; try again")
			return
		}
		defer exit(s.requests)
		deadline := time.Now().Add(limit)
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(actTimeout)) // not every transport has deadlines; the context bounds the work
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		answer, err := do(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			s.Logger.Debug("answer control request", "path", r.URL.Path, "error", err)
		}
	})
}

func enter(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func exit(slots chan struct{}) { <-slots }

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var known *refusal
	if errors.As(err, &known) {
		status = known.status
	} else {
		s.Logger.Warn("control request failed", "path", r.URL.Path, "user", user(r), "error", err)
	}
	refuse(w, status, err.Error())
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v1.Refusal{Error: text})
}

// user is who asks, as the API server found out.
func user(r *http.Request) string {
	if info, ok := request.UserFrom(r.Context()); ok {
		return info.GetName()
	}
	return ""
}

// read decodes the body of a request. Unknown fields are refused: what asks for
// more than this peer understands must not be half done.
func read(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return refusef(http.StatusBadRequest, "read request: %v", err)
	}
	return nil
}
