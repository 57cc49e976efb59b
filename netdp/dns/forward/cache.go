package forward

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"

	"shoal/netdp/dns/wire"
)

const (
	// Limits of the cache. A host's pods ask for some thousand names; an answer
	// is some hundred bytes, so bytes run out only where somebody makes it so.
	maxAnswers     = 16_384
	maxAnswerBytes = 16 << 20
	// Longest times an answer stays: as long as CoreDNS keeps them by default.
	maxKeep         = time.Hour
	maxKeepNegative = 30 * time.Minute
	// staleFor is how long past its time an answer is given while no server answers,
	// and staleTTL its lifetime then, in which they are not asked (RFC 8767, sections
	// 4 and 5). Answers that there is nothing are not given so.
	staleFor = 24 * time.Hour
	staleTTL = 30 * time.Second
)

// Question is what is asked of a server, and what an answer is kept by.
type Question struct {
	Name            string // in wire form and lower case
	Type            uint16
	DNSSEC, NoCheck bool
}

// kept is an answer in the cache.
type kept struct {
	question      Question
	answer        *wire.Packed
	since, expire time.Time
	until         time.Time // it is good for nothing at all
}

// cache holds answers, the one used longest ago goes first.
type cache struct {
	mu    sync.Mutex // guards all below
	order *list.List // of *kept, last used first
	byKey map[Question]*list.Element
	bytes int
}

func newCache() *cache {
	return &cache{order: list.New(), byKey: map[Question]*list.Element{}}
}

// get returns an answer that is still good, and its age in seconds.
func (c *cache) get(name []byte, q Question, now time.Time) (answer *wire.Packed, age uint32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The conversion in the key makes no copy.
	e := c.byKey[Question{Name: string(name), Type: q.Type, DNSSEC: q.DNSSEC, NoCheck: q.NoCheck}]
	if e == nil {
		return nil, 0, false
	}
	k := e.Value.(*kept)
	if !now.Before(k.until) {
		c.drop(e)
		return nil, 0, false
	}
	if !now.Before(k.expire) {
		return nil, 0, false
	}
	c.order.MoveToFront(e)
	return k.answer, uint32(now.Sub(k.since) / time.Second), true
}

// old returns an answer whose time is over, and until when it may still be given.
func (c *cache) old(q Question, now time.Time) (answer *wire.Packed, until time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[q]
	if e == nil {
		return nil, time.Time{}, false
	}
	k := e.Value.(*kept)
	return k.answer, k.until, now.Before(k.until) && !now.Before(k.expire)
}

// stale is an old answer as it is given.
func stale(old *wire.Packed) (*wire.Packed, error) {
	m, err := old.Msg(0)
	if err != nil {
		return nil, err
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl = uint32(staleTTL / time.Second)
			}
		}
	}
	return wire.Pack(m)
}

// put keeps an answer: it is good for keep, and in need until some time.
func (c *cache) put(q Question, answer *wire.Packed, keep time.Duration, until, now time.Time) {
	if keep <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[q]; e != nil {
		c.drop(e)
	}
	c.byKey[q] = c.order.PushFront(&kept{q, answer, now, now.Add(keep), until})
	c.bytes += answer.Len()
	for len(c.byKey) > maxAnswers || c.bytes > maxAnswerBytes {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	k := c.order.Remove(e).(*kept)
	delete(c.byKey, k.question)
	c.bytes -= k.answer.Len()
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byKey)
}

// lifetime is how long an answer may be kept, 0 for not at all.
func lifetime(m *dns.Msg, p *wire.Packed) time.Duration {
	seconds, limited := p.Lifetime()
	keep := min(time.Duration(seconds)*time.Second, maxKeep)
	switch {
	case !limited, m.Truncated, m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return 0
	case m.Rcode == dns.RcodeSuccess && answers(m):
		return keep
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(keep, time.Duration(soa.Minttl)*time.Second, maxKeepNegative)
		}
	}
	return 0
}

// answers tells whether there is a record of the type asked for: a chain of
// aliases that ends in nothing is a negative answer.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == m.Question[0].Qtype {
			return true
		}
	}
	return false
}
