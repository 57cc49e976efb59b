package netdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"shoal/bpf"
)

const (
	// maxFlowReaders may follow a host at once: people and a collector.
	maxFlowReaders = 16
	// flowBacklog records wait for a reader; beyond it they are lost to it. The
	// kernel tells at most 512 per second and processor.
	flowBacklog = 4096
	// followLease is how long the programs tell after the daemon last said so.
	followLease = 5 * time.Second
	// followRenew is how often it does, and asks what was lost.
	followRenew = time.Second
)

// ErrTooManyReaders means that the host's flows are followed by as many as may.
var ErrTooManyReaders = fmt.Errorf("this host's flows are followed by %d others already; end one of them", maxFlowReaders)

// flowHub reads the ring buffer while somebody follows, and gives each reader
// what it tells.
type flowHub struct {
	life  sync.Mutex         // held to begin and to end; guards the next two
	stop  context.CancelFunc // nil: nobody reads the ring buffer
	ended chan struct{}      // closed when it is read no more

	mu      sync.Mutex // guards readers, and what they lost
	readers map[*flowReader]struct{}
}

// flowReader has room for what its owner has not taken yet.
type flowReader struct {
	records chan FlowRecord
	lost    uint64 // guarded by the hub's mu
}

// FollowFlows calls each for everything the datapath tells from now on, until
// ctx ends or each returns an error. more says that others wait already. A
// reader that is too slow loses records; one of kind FlowLost says how many.
func (d *Datapath) FollowFlows(ctx context.Context, each func(rec FlowRecord, more bool) error) error {
	r, err := d.addFlowReader()
	if err != nil {
		return fmt.Errorf("follow flows: %w", err)
	}
	defer d.dropFlowReader(r)
	for {
		select {
		case <-ctx.Done():
			return nil
		case rec, ok := <-r.records:
			if !ok {
				return errors.New("follow flows: the datapath is being closed")
			}
			if err := each(rec, len(r.records) > 0); err != nil {
				return err
			}
		}
	}
}

func (d *Datapath) addFlowReader() (*flowReader, error) {
	h := &d.flows
	h.life.Lock()
	defer h.life.Unlock()
	if h.count() >= maxFlowReaders {
		return nil, ErrTooManyReaders
	}
	if h.stop == nil {
		if err := d.startFlows(); err != nil {
			return nil, err
		}
	}
	r := &flowReader{records: make(chan FlowRecord, flowBacklog)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers == nil {
		h.readers = map[*flowReader]struct{}{}
	}
	h.readers[r] = struct{}{}
	return r, nil
}

func (h *flowHub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.readers)
}

// dropFlowReader switches the programs' records off with the last reader.
func (d *Datapath) dropFlowReader(r *flowReader) {
	h := &d.flows
	h.life.Lock()
	defer h.life.Unlock()
	h.mu.Lock()
	delete(h.readers, r)
	h.mu.Unlock()
	if h.count() == 0 {
		d.stopFlows()
	}
}

// startFlows runs with the hub's life held.
func (d *Datapath) startFlows() error {
	ring, err := ringbuf.NewReader(d.maps[bpf.DatapathMapRecords])
	if err != nil {
		return fmt.Errorf("open ring buffer: %w", err)
	}
	began, err := monotonicNow()
	if err == nil {
		err = d.setFollowed(began)
	}
	names, nameErr := d.newRecordNames()
	if err = errors.Join(err, nameErr); err != nil {
		return errors.Join(err, ring.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	d.flows.stop, d.flows.ended = stop, ended
	go func() {
		defer close(ended)
		defer ring.Close()
		d.readFlows(ctx, ring, began, names)
	}()
	return nil
}

// stopFlows runs with the hub's life held.
func (d *Datapath) stopFlows() {
	h := &d.flows
	if h.stop == nil {
		return
	}
	h.stop()
	<-h.ended
	h.stop = nil
	if err := d.maps[bpf.DatapathMapFollowing].Put(uint32(0), bpf.DatapathFollow{}); err != nil {
		d.log.Warn("switch off records of flows; they end by themselves", "after", followLease, "error", err)
	}
}

// closeFlows ends all readers.
func (d *Datapath) closeFlows() {
	h := &d.flows
	h.life.Lock()
	defer h.life.Unlock()
	h.mu.Lock()
	for r := range h.readers {
		close(r.records)
	}
	clear(h.readers)
	h.mu.Unlock()
	d.stopFlows()
}

func (d *Datapath) setFollowed(now uint64) error {
	until := bpf.DatapathFollow{UntilNs: now + uint64(followLease)}
	if err := d.maps[bpf.DatapathMapFollowing].Put(uint32(0), until); err != nil {
		return fmt.Errorf("switch on records of flows: %w", err)
	}
	return nil
}

// readFlows reads until ctx ends. What is older than began was told to nobody.
func (d *Datapath) readFlows(ctx context.Context, ring *ringbuf.Reader, began uint64, names *recordNames) {
	lost, err := d.lostRecords()
	var sample ringbuf.Record
	renew := time.Now()
	for ctx.Err() == nil {
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			d.log.Warn("follow flows", "error", err)
		}
		if now := time.Now(); now.After(renew) {
			renew = now.Add(followRenew)
			lost = d.renewFollowed(lost)
		}
		ring.SetDeadline(time.Now().Add(followRenew / 4))
		if err = ring.ReadInto(&sample); err != nil {
			continue
		}
		r, ok := decodeRecord(sample.RawSample)
		if !ok || r.TimeNs < began {
			continue
		}
		rec := d.recordOf(r.Flow, wallTime(r.TimeNs), r.Count, names)
		rec.Backend = addrPortFromWire(r.Backend, r.BackendPort)
		d.flows.give(rec)
	}
}

// renewFollowed tells the readers what the kernel could not.
func (d *Datapath) renewFollowed(lost uint64) uint64 {
	now, err := monotonicNow()
	if err == nil {
		err = d.setFollowed(now)
	}
	total, lostErr := d.lostRecords()
	if err := errors.Join(err, lostErr); err != nil {
		d.log.Warn("follow flows", "error", err)
		return lost
	}
	if total > lost {
		d.flows.give(FlowRecord{Time: time.Now(), Kind: FlowLost, Count: total - lost})
	}
	return total
}

// give hands a record to every reader that has room.
func (h *flowHub) give(rec FlowRecord) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		if r.lost > 0 {
			select {
			case r.records <- FlowRecord{Time: rec.Time, Kind: FlowLost, Count: r.lost}:
				r.lost = 0
			default:
			}
		}
		select {
		case r.records <- rec:
		default:
			r.lost++
		}
	}
}

// lostRecords counts what was not told: too much in a second, or more than the
// ring buffer holds.
func (d *Datapath) lostRecords() (total uint64, err error) {
	var perCPU []bpf.DatapathRecordLimit
	if err := d.maps[bpf.DatapathMapRecordLimits].Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read count of lost records: %w", err)
	}
	for _, l := range perCPU {
		total += l.Lost + l.Suppressed
	}
	return total, nil
}

// RecentFlows lists what the kernel remembers, each with its count and when it
// was seen last: drops, and what was told while somebody followed. It remembers
// some thousands; the least recent go first.
func (d *Datapath) RecentFlows() ([]FlowRecord, error) {
	names, err := d.newRecordNames()
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	var out []FlowRecord
	var key bpf.DatapathRecordKey
	var state bpf.DatapathRecordState
	it := d.maps[bpf.DatapathMapRecorded].Iterate()
	for it.Next(&key, &state) {
		out = append(out, d.recordOf(key, wallTime(state.LastNs), state.Count, names))
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list flows: %w", err) // aborted: it changed faster than it was read
	}
	return out, nil
}
