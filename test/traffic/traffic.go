// Package traffic keeps connections busy and makes new ones beside them, and counts
// what broke: for tests that replace a datapath under load.
//
// The other end is any server that sends back what it got, with whatever before it.
// A datagram may be lost and is sent again; a connection that gives an error or no
// answer for so long that nobody would wait is broken.
package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// askPause is between two exchanges of a connection.
	askPause = 2 * time.Millisecond
	// makers make new connections of a path beside each other, so that one that
	// waits is no gap; makePause is between two of each.
	makers    = 3
	makePause = 8 * time.Millisecond
	// patience is how long an answer is waited for.
	patience = 15 * time.Second
	// resend is after how long a datagram is sent again.
	resend = 250 * time.Millisecond
	// maxErrors of a report are kept.
	maxErrors = 5
)

// Path is a way from here to a server.
type Path struct {
	Name, Network, Addr string
	// Dial is net.Dialer.DialContext unless set.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `json:"-"`
	// Open is how many connections are kept open.
	Open int
}

// Report is what became of a path's connections.
type Report struct {
	Path string
	// Exchanges are questions that were answered on connections kept open; Broken
	// are such connections that ended.
	Exchanges, Broken int
	// Made are new connections that were answered; Failed are those that were not.
	Made, Failed int
	// Lost are datagrams that were sent again.
	Lost int
	// LongestGap is the longest time in which no new connection was answered.
	LongestGap time.Duration
	Errors     []string
}

// String is a line for people.
func (r Report) String() string {
	return fmt.Sprintf("%s: %d exchanges, %d broken; %d new, %d failed, longest gap %.1f ms; %d datagrams sent again",
		r.Path, r.Exchanges, r.Broken, r.Made, r.Failed, float64(r.LongestGap.Microseconds())/1000, r.Lost)
}

// Load is traffic on some paths.
type Load struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	paths   []Path
	reports []*counted
}

type counted struct {
	mu sync.Mutex // guards the report
	Report
	answered time.Time // when the last new connection was
}

// Start opens all connections, each answered once, and goes on until Stop.
func Start(ctx context.Context, paths []Path) (*Load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cancel: cancel, paths: paths}
	for _, p := range paths {
		if p.Dial == nil {
			p.Dial = new(net.Dialer).DialContext
		}
		r := &counted{Report: Report{Path: p.Name}}
		l.reports = append(l.reports, r)
		for range p.Open {
			conn, err := p.Dial(ctx, p.Network, p.Addr)
			if err == nil {
				err = r.exchange(conn, "first", p.Network)
			}
			if err != nil {
				l.Stop()
				return nil, fmt.Errorf("open %s: %w", p.Name, err)
			}
			l.done.Go(func() { r.keep(ctx, conn, p.Network) })
		}
		for range makers {
			l.done.Go(func() { r.renew(ctx, p) })
		}
	}
	return l, nil
}

// Stop ends the traffic and reports each path in the order of Start.
func (l *Load) Stop() []Report {
	l.cancel()
	l.done.Wait()
	out := make([]Report, 0, len(l.reports))
	for _, r := range l.reports {
		out = append(out, r.Report)
	}
	return out
}

// Reports tells how things stand.
func (l *Load) Reports() []Report {
	out := make([]Report, 0, len(l.reports))
	for _, r := range l.reports {
		r.mu.Lock()
		out = append(out, r.Report)
		r.mu.Unlock()
	}
	return out
}

// keep asks on one connection until ctx ends.
func (r *counted) keep(ctx context.Context, conn net.Conn, network string) {
	defer conn.Close()
	for i := 0; wait(ctx, askPause); i++ {
		err := r.exchange(conn, fmt.Sprintf("q%d.", i), network)
		r.mu.Lock()
		if err != nil {
			r.Broken++
			r.note("open connection", err)
			r.mu.Unlock()
			return
		}
		r.Exchanges++
		r.mu.Unlock()
	}
}

// renew is a maker: it makes one connection after the other until ctx ends.
func (r *counted) renew(ctx context.Context, p Path) {
	for i := 0; wait(ctx, makePause); i++ {
		err := r.once(p, fmt.Sprintf("n%d.", i))
		now := time.Now()
		r.mu.Lock()
		if err != nil {
			r.Failed++
			r.note("new connection", err)
		} else {
			if !r.answered.IsZero() {
				r.LongestGap = max(r.LongestGap, now.Sub(r.answered))
			}
			r.answered = now
			r.Made++
		}
		r.mu.Unlock()
	}
}

// once is a connection for one question. It is not cut off when the traffic ends.
func (r *counted) once(p Path, question string) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("not connected in time"))
	defer cancel()
	conn, err := p.Dial(ctx, p.Network, p.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // thousands of them: nothing may stay behind
	}
	return r.exchange(conn, question, p.Network)
}

// exchange asks and reads until the answer holds the question.
func (r *counted) exchange(conn net.Conn, question, network string) error {
	end := time.Now().Add(patience)
	datagrams := network[:3] == "udp"
	var heard []byte
	buf := make([]byte, 2048)
	for send := true; ; {
		if send {
			if _, err := fmt.Fprintln(conn, question); err != nil {
				return err
			}
			send = false
		}
		until := end
		if datagrams && time.Until(end) > resend {
			until = time.Now().Add(resend)
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		var timeout net.Error
		if datagrams && errors.As(err, &timeout) && timeout.Timeout() && time.Now().Before(end) {
			r.mu.Lock()
			r.Lost++
			r.mu.Unlock()
			send = true
			continue
		}
		if err != nil {
			return err
		}
		heard = append(heard, buf[:n]...)
		if bytes.Contains(heard, []byte(question)) {
			return nil
		}
	}
}

// note runs with mu held.
func (r *counted) note(what string, err error) {
	if len(r.Errors) < maxErrors {
		r.Errors = append(r.Errors, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), what, err))
	}
}

func wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
