package sim

import "time"

// network says what happens to a message on its way.
type network struct {
	r *run
	// cut: nothing passes in this direction.
	cut map[[2]int]bool
	// slow adds delay in this direction.
	slow       map[[2]int]time.Duration
	loss, dup  float64
	delivered  int
	unreliable bool
}

func newNetwork(r *run) *network {
	return &network{r: r, cut: make(map[[2]int]bool), slow: make(map[[2]int]time.Duration)}
}

func (n *network) reaches(from, to *peer) bool { return !n.cut[[2]int{from.id, to.id}] }

func (n *network) both(a, b *peer) bool { return n.reaches(a, b) && n.reaches(b, a) }

// send delivers a message, or does not, or twice, and in any order.
func (n *network) send(from, to *peer, message any) {
	if !n.reaches(from, to) || n.r.random.Float64() < n.loss {
		return
	}
	times := 1
	if n.r.random.Float64() < n.dup {
		times = 2
	}
	for range times {
		d := n.r.between(500*time.Microsecond, 8*time.Millisecond) + n.slow[[2]int{from.id, to.id}]
		if n.r.random.IntN(50) == 0 && n.loss > 0 {
			d += n.r.between(0, time.Second) // held up on the way
		}
		n.r.loop.after(d, func() {
			if to.up && n.reaches(from, to) {
				n.delivered++
				to.proto.receive(from, message)
				to.settle()
			}
		})
	}
}
