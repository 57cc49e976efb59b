package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"shoal/store"
	"shoal/store/backup"
)

const (
	// backupTimeout bounds a whole backup: it keeps the tables it reads on disk.
	backupTimeout = time.Hour
	// stallTimeout is how long a client may take nothing.
	stallTimeout = time.Minute
)

// local is what a peer keeps for itself; it is no part of the cell.
const local = "/shoal/local/"

// everything replicated and local begins with a slash.
var everything = store.Range{Prefix: "/"}

// backup streams all records as of one version. What fails once the stream has
// begun breaks it off, which the client sees.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	if !enter(s.backups) {
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("%d backups are being taken from this peer already; try again later, or ask another with --peer", maxBackups))
		return
	}
	defer exit(s.backups)
	ctx, cancel := context.WithTimeout(r.Context(), backupTimeout)
	defer cancel()
	files, err := s.Host.CellFiles()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	at := s.Store.Version()
	count, err := s.count(at)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	started := s.Now()
	header := backup.Header{Cell: s.Cell, Peer: s.Host.Self().Name, Time: started.UTC(), Version: uint64(at), Records: count, Files: len(files)}
	out := &stallGuard{control: http.NewResponseController(w), writer: w}
	if err := s.writeBackup(ctx, out, header, files, at); err != nil {
		s.Logger.Warn("backup broke off", "user", user(r), "error", err)
		panic(http.ErrAbortHandler)
	}
	s.Logger.Info("backup taken", "user", user(r), "records", count, "seconds", s.Now().Sub(started).Seconds())
}

// count is how many records a backup at that version has.
func (s *Server) count(at store.Version) (int64, error) {
	all, err := s.Store.Count(everything, at)
	if err != nil {
		return 0, err
	}
	own, err := s.Store.Count(store.Range{Prefix: local}, at)
	return all - own, err
}

func (s *Server) writeBackup(ctx context.Context, out *stallGuard, header backup.Header, files map[string][]byte, at store.Version) error {
	w, err := backup.NewWriter(out, header)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.Add(backup.Entry{Kind: backup.File, Name: name, Content: files[name]}); err != nil {
			return err
		}
	}
	entries, _, err := s.Store.List(everything, at)
	if err != nil {
		return err
	}
	for entry, err := range entries {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(entry.Key, local) {
			continue
		}
		err := w.Add(backup.Entry{Kind: backup.Record, Name: entry.Key, UID: entry.UID, ExpiresMicros: entry.ExpiresMicros, Content: entry.Value})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

// stallGuard ends a stream whose client takes nothing any more.
type stallGuard struct {
	control *http.ResponseController
	writer  http.ResponseWriter
}

// Write implements io.Writer.
func (g *stallGuard) Write(b []byte) (int, error) {
	if err := g.control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return g.writer.Write(b)
}
