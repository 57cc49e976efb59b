package dns

import (
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count questions and answers. Counters are looked up once.
type metrics struct {
	queries, answers   *prometheus.CounterVec
	strangers, ignored prometheus.Counter
	udp, tcp           prometheus.Counter
	byRcode            [dns.RcodeBadVers + 1]prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		queries:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shoal_dns_queries_total", Help: "DNS questions of this host's pods."}, []string{"network"}),
		answers:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shoal_dns_responses_total", Help: "DNS answers to this host's pods by their code."}, []string{"rcode"}),
		strangers: prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_refused_total", Help: "DNS questions and connections of those who are not served, or over a limit."}),
		ignored:   prometheus.NewCounter(prometheus.CounterOpts{Name: "shoal_dns_ignored_total", Help: "Packets at the DNS server that are no question."}),
	}
	m.udp, m.tcp = m.queries.WithLabelValues("udp"), m.queries.WithLabelValues("tcp")
	for rcode := range m.byRcode {
		if name, ok := dns.RcodeToString[rcode]; ok && (rcode <= dns.RcodeRefused || rcode == dns.RcodeBadVers) {
			m.byRcode[rcode] = m.answers.WithLabelValues(name)
		}
	}
	return m
}

func (m *metrics) answered(rcode int) {
	if rcode < len(m.byRcode) && m.byRcode[rcode] != nil {
		m.byRcode[rcode].Inc()
		return
	}
	m.answers.WithLabelValues("other").Inc()
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.queries, m.answers, m.strangers, m.ignored} {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.queries, m.answers, m.strangers, m.ignored} {
		c.Collect(ch)
	}
}

// Metrics are the server's and its forwarder's, to be registered.
func (s *Server) Metrics() []prometheus.Collector {
	return []prometheus.Collector{s.metrics, s.o.Forward.Metrics()}
}
