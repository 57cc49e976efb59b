package netdp

import (
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxServiceSeries bounds how many services have metrics of their own: those
// that are called first; beyond it a service has none until another is gone.
const maxServiceSeries = 1000

var (
	dropsDesc = prometheus.NewDesc("shoal_datapath_drops_total",
		"Packets that the programs dropped and calls they refused, by reason.", []string{"reason"}, nil)
	openedDesc = prometheus.NewDesc("shoal_service_connections_total",
		"Connections opened, and sockets that began to send datagrams, through a service on this host.", []string{"namespace", "service", "port"}, nil)
	refusedDesc = prometheus.NewDesc("shoal_service_refused_total",
		"Calls of a service on this host that were refused, since it has no backend.", []string{"namespace", "service", "port"}, nil)
	entriesDesc = prometheus.NewDesc("shoal_datapath_map_entries",
		"Entries of a kernel map; counted once a minute where only the kernel knows.", []string{"map"}, nil)
	maxEntriesDesc = prometheus.NewDesc("shoal_datapath_map_max_entries",
		"How many entries a kernel map takes.", []string{"map"}, nil)
	ratioDesc = prometheus.NewDesc("shoal_datapath_map_fill_ratio",
		"Entries of a kernel map over how many it takes.", []string{"map"}, nil)
	noRoomDesc = prometheus.NewDesc("shoal_datapath_services_without_room",
		"Ports of services that are not in the kernel's maps because these are full. An alarm if not 0.", nil, nil)
	writeErrorsDesc = prometheus.NewDesc("shoal_datapath_map_write_errors_total",
		"Writes to kernel maps that failed.", nil, nil)
	notCarriedDesc = prometheus.NewDesc("shoal_datapath_map_not_carried",
		"1 for a kernel map that began empty at this start, since its new layout could not take the old entries.", []string{"map"}, nil)
	repairsDesc = prometheus.NewDesc("shoal_datapath_repairs_total",
		"Programs, pins and mounts that were found missing, by whether they could be put back.", []string{"result"}, nil)
	readersDesc = prometheus.NewDesc("shoal_flow_readers",
		"Who follows this host's flows now.", nil, nil)
	handshakeDesc = prometheus.NewDesc("shoal_wireguard_last_handshake_seconds",
		"When this host and another last agreed on keys, since 1970; 0: not yet. It is done anew every two minutes while something is sent.", []string{"host"}, nil)
	wireSentDesc = prometheus.NewDesc("shoal_wireguard_sent_bytes_total",
		"Bytes sent encrypted to another host, since its key is known.", []string{"host"}, nil)
	wireReceivedDesc = prometheus.NewDesc("shoal_wireguard_received_bytes_total",
		"Bytes received encrypted from another host, since its key is known.", []string{"host"}, nil)
	lostDesc = prometheus.NewDesc("shoal_flow_records_lost_total",
		"Records of flows that the kernel could not tell: too many at once.", nil, nil)
)

// repairCounts counts what Repair did.
type repairCounts struct {
	mu           sync.Mutex // guards all below
	done, failed uint64
}

func (c *repairCounts) count(r Repair) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Err != nil {
		c.failed++
		return
	}
	c.done++
}

// collector reads the kernel's counts when it is scraped.
type collector struct {
	d *Datapath

	mu    sync.Mutex // guards named
	named map[string]bool
}

// Metrics are the datapath's, to be registered.
func (d *Datapath) Metrics() prometheus.Collector {
	return &collector{d: d, named: map[string]bool{}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		dropsDesc, openedDesc, refusedDesc, entriesDesc, maxEntriesDesc, ratioDesc,
		noRoomDesc, writeErrorsDesc, notCarriedDesc, repairsDesc, readersDesc, lostDesc,
		handshakeDesc, wireSentDesc, wireReceivedDesc,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	drops, err := c.d.Drops()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(dropsDesc, err)
	}
	for reason, n := range drops {
		send(dropsDesc, prometheus.CounterValue, float64(n), reason)
	}
	for _, f := range c.d.MapFills() {
		send(entriesDesc, prometheus.GaugeValue, float64(f.Entries), f.Map)
		send(maxEntriesDesc, prometheus.GaugeValue, float64(f.MaxEntries), f.Map)
		send(ratioDesc, prometheus.GaugeValue, f.Ratio(), f.Map)
	}
	c.services(ch)
	c.sessions(ch)
	send(noRoomDesc, prometheus.GaugeValue, float64(len(c.d.WithoutRoom())))
	send(writeErrorsDesc, prometheus.CounterValue, float64(mapWriteErrors.Load()))
	for name := range c.d.set.lost {
		send(notCarriedDesc, prometheus.GaugeValue, 1, name)
	}
	c.d.repaired.mu.Lock()
	done, failed := c.d.repaired.done, c.d.repaired.failed
	c.d.repaired.mu.Unlock()
	send(repairsDesc, prometheus.CounterValue, float64(done), "done")
	send(repairsDesc, prometheus.CounterValue, float64(failed), "failed")
	send(readersDesc, prometheus.GaugeValue, float64(c.d.flows.count()))
	if lost, err := c.d.lostRecords(); err == nil {
		send(lostDesc, prometheus.CounterValue, float64(lost))
	}
}

// sessions has three series for each host that what pods say is encrypted for.
func (c *collector) sessions(ch chan<- prometheus.Metric) {
	sessions, err := c.d.Sessions()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(handshakeDesc, err)
	}
	for host, s := range sessions {
		when := float64(0)
		if !s.Handshake.IsZero() {
			when = float64(s.Handshake.Unix())
		}
		ch <- prometheus.MustNewConstMetric(handshakeDesc, prometheus.GaugeValue, when, host)
		ch <- prometheus.MustNewConstMetric(wireSentDesc, prometheus.CounterValue, float64(s.Sent), host)
		ch <- prometheus.MustNewConstMetric(wireReceivedDesc, prometheus.CounterValue, float64(s.Received), host)
	}
}

// services gives the services that were called first series of their own, for
// as long as they exist, so that no counter ever goes back.
func (c *collector) services(ch chan<- prometheus.Metric) {
	calls, err := c.d.ServiceCalls()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(openedDesc, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.choose(calls)
	for _, s := range calls {
		if !c.named[s.Key] {
			continue
		}
		namespace, service, port := splitKey(s.Key)
		ch <- prometheus.MustNewConstMetric(openedDesc, prometheus.CounterValue, float64(s.Opened), namespace, service, port)
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.Refused), namespace, service, port)
	}
}

// choose forgets services that are gone and takes in those that were called, up
// to the limit. It runs with mu held.
func (c *collector) choose(calls []ServiceCounts) {
	exists := make(map[string]bool, len(calls))
	for _, s := range calls {
		exists[s.Key] = true
	}
	for key := range c.named {
		if !exists[key] {
			delete(c.named, key)
		}
	}
	slices.SortFunc(calls, func(a, b ServiceCounts) int { return strings.Compare(a.Key, b.Key) })
	for _, s := range calls {
		if len(c.named) >= maxServiceSeries {
			return
		}
		if s.Opened+s.Refused > 0 {
			c.named[s.Key] = true
		}
	}
}

// splitKey reads namespace/name:port.
func splitKey(key string) (namespace, service, port string) {
	namespace, rest, ok := strings.Cut(key, "/")
	if !ok {
		return "", key, ""
	}
	service, port, _ = strings.Cut(rest, ":")
	return namespace, service, port
}
