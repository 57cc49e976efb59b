package forward

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what goes to other servers.
type Metrics struct {
	Forwards *prometheus.CounterVec // by network
	Failures prometheus.Counter
	Hits     prometheus.Counter
	Misses   prometheus.Counter
	Stale    prometheus.Counter
	Seconds  prometheus.Histogram
	entries  prometheus.GaugeFunc
}

func newMetrics(entries func() float64) *Metrics {
	return &Metrics{
		Forwards: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shoal_dns_forwards_total", Help: "Questions sent to other DNS servers, each try counted."}, []string{"network"}),
		Failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_forward_failures_total", Help: "Questions that no other DNS server answered."}),
		Hits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_cache_hits_total", Help: "Questions answered from what other servers had said before."}),
		Misses:   prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_cache_misses_total", Help: "Questions that were not in the cache."}),
		Stale:    prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_stale_total", Help: "Answers past their time that were given since no other DNS server answered."}),
		Seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "shoal_dns_forward_duration_seconds", Help: "Time until other servers had answered a question.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
		entries: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "shoal_dns_cache_entries", Help: "Answers in the cache."}, entries),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.Forwards, m.Failures, m.Hits, m.Misses, m.Stale, m.Seconds, m.entries}
}
