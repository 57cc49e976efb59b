package sim

import (
	"fmt"
	"strings"
	"time"

	"shoal/store"
	"shoal/store/vector"
)

// client works at one peer and moves on to another now and then. It remembers
// what it was answered and how much the peer it talked to held then, as the API
// does by resourceVersions.
type client struct {
	r    *run
	at   *peer
	seen vector.Vector
	made []*write
}

// remembered is how many of its own writes a client looks for when it moves.
const remembered = 8

const (
	hotPrefix    = "/registry/hot/"
	coldPrefix   = "/registry/cold/"
	eventsPrefix = "/registry/events/"
	poisonPrefix = "/registry/poison/"
)

func (r *run) startClients() {
	clients := max(3, r.o.Peers/2)
	mean := r.o.Duration * time.Duration(clients) / time.Duration(r.o.Writes)
	for range clients {
		c := &client{r: r, seen: vector.Vector{}}
		var next func()
		next = func() {
			if r.loop.now > r.o.Duration {
				return
			}
			c.act()
			r.loop.after(time.Duration(float64(mean)*r.random.ExpFloat64()), next)
		}
		r.loop.after(time.Duration(float64(mean)*r.random.ExpFloat64()), next)
	}
}

func (c *client) act() {
	if c.at == nil || !c.at.up || c.r.random.IntN(8) == 0 {
		if c.at = c.r.someUp(); c.at == nil {
			return
		}
		if !c.caughtUp() {
			return
		}
		c.look()
	}
	if !c.at.up || !c.caughtUp() {
		return
	}
	if w := c.write(); w != nil {
		c.made = append(c.made, w)
		if len(c.made) > remembered {
			c.made = c.made[1:]
		}
	}
	if p := c.at; p.up && !p.disk.crashed {
		c.seen = p.replica.Vector()
	}
	c.at.settle()
}

// caughtUp: the peer has what the client was shown elsewhere; else the API
// would have it wait.
func (c *client) caughtUp() bool {
	// A peer that has not joined does not serve.
	return !c.at.replica.Joining() && len(c.at.replica.Vector().Missing(c.seen)) == 0
}

// look: a client finds its own writes on the next peer it asks.
func (c *client) look() {
	for _, w := range c.made {
		s := c.at.state(w.key)
		if !c.r.check.covers(s, w) {
			c.r.check.fail(w.key, "a client does not find on %s its %v, but %v", c.at.name, w, s)
		}
	}
}

func (c *client) key() string {
	random := c.r.random
	switch n := random.IntN(10); {
	case n < 6:
		return fmt.Sprintf("%s%d", hotPrefix, random.IntN(c.r.o.HotKeys))
	case n < 9:
		return fmt.Sprintf("%s%03d", coldPrefix, random.IntN(c.r.o.ColdKeys))
	}
	return fmt.Sprintf("%s%02d", eventsPrefix, random.IntN(20))
}

func (c *client) write() *write {
	random := c.r.random
	u := store.Update{Key: c.key(), Expect: store.Any, UID: fmt.Sprintf("u%d", c.r.nextOp())}
	event := strings.HasPrefix(u.Key, eventsPrefix)
	found, err := c.at.replica.Get(u.Key)
	if c.r.check.first != nil {
		return nil
	}
	fields := string(rune('a' + random.IntN(5)))
	if random.IntN(3) == 0 {
		fields += string(rune('f' + random.IntN(3)))
	}
	if event && random.IntN(4) > 0 {
		u.TTL = c.r.between(2*time.Second, 8*time.Second)
	}
	if err != nil {
		u.Expect = store.Absent
		return c.at.write(u, fields)
	}
	switch n := random.IntN(20); {
	case n < 4 && (!event || random.IntN(2) == 0):
		u.Delete = true
		if random.IntN(2) == 0 {
			u.Expect = found.Version
		}
	case n == 4: // another object takes the name
	case n == 5: // refused: it is there
		u.Expect = store.Absent
	case n == 6: // refused: it went on
		u.Expect = found.Version - 1<<12
	case n < 14:
		u.UID, u.Expect = found.UID, found.Version
	default:
		u.UID = found.UID
	}
	return c.at.write(u, fields)
}
