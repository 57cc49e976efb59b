package cell

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	historyKeys    = 4
	historyClients = 6
	// historyOps of each client: what is checked grows faster than these.
	historyOps = 120
	// checkWithin bounds the search for an order; without one in time the
	// test fails, as it shows nothing.
	checkWithin = time.Minute
)

// action is what a client asked of a register, and outcome what it heard.
type (
	action struct {
		key string
		// replace: update from what was seen to next, if it is still that.
		replace    bool
		seen, next string
	}
	outcome struct {
		value    string // of a read
		replaced bool
	}
)

// register is a cell of memory with read and compare-and-swap. Values are never
// used twice, so that an unchanged version and an unchanged value are the same.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range history {
			key := o.Input.(action).key
			byKey[key] = append(byKey[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		a, o := input.(action), output.(outcome)
		switch {
		case !a.replace:
			return state == o.value, state
		case o.replaced:
			return state == a.seen, a.next
		default: // refused as stale
			return state != a.seen, state
		}
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// TestHistory checks that one peer is linearizable to its clients, object by
// object, while others are written to and one of them is killed.
func TestHistory(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	one, victim := peers[2], peers[4]
	for k := range historyKeys {
		_, err := one.kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(fmt.Sprintf("register-%d", k), map[string]string{"v": ""}), metav1.CreateOptions{})
		ok(t, err)
	}
	writes := startLoad(t, ns, all(1, 3, 5)...)
	var (
		mu      sync.Mutex
		history []porcupine.Operation // guarded by mu
		clients sync.WaitGroup
	)
	half := make(chan struct{})
	for c := range historyClients {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(c), 1)) // what is asked is the same in every run
			for i := range historyOps {
				if c == 0 && i == historyOps/2 {
					close(half)
				}
				done, err := step(t.Context(), one, ns, c, i, random)
				if err != nil {
					t.Errorf("client %d of %s: %v", c, one.name, err)
					return
				}
				mu.Lock()
				history = append(history, done...)
				mu.Unlock()
			}
		})
	}
	select {
	case <-half:
	case <-t.Context().Done():
	}
	ok(t, cell.Kill(within(t), victim.number))
	clients.Wait()
	writes.end()
	writes.unanswered(t, all(1, 3, 5)...)
	replaced, refused := 0, 0
	for _, o := range history {
		if a := o.Input.(action); a.replace && o.Output.(outcome).replaced {
			replaced++
		} else if a.replace {
			refused++
		}
	}
	t.Logf("%d operations, %d replaced, %d refused as stale", len(history), replaced, refused)
	if replaced == 0 || refused == 0 {
		t.Error("the history shows nothing: nobody won or nobody lost")
	}
	if result := porcupine.CheckOperationsTimeout(register, history, checkWithin); result != porcupine.Ok {
		t.Errorf("the history of one peer is not linearizable: %s", result)
	}
	// A history with one made-up read has no order.
	wrong := append([]porcupine.Operation{}, history...)
	last := &wrong[len(wrong)-1]
	last.Input, last.Output = action{key: last.Input.(action).key}, outcome{value: "never written"}
	if result := porcupine.CheckOperationsTimeout(register, wrong, checkWithin); result != porcupine.Illegal {
		t.Errorf("a read of what nobody wrote passes as %s: the check sees nothing", result)
	}
	whole(t)
}

// step reads a register, and mostly replaces what it read.
func step(ctx context.Context, p *peer, ns string, client, i int, random *rand.Rand) ([]porcupine.Operation, error) {
	maps := p.kube.CoreV1().ConfigMaps(ns)
	key := fmt.Sprintf("register-%d", random.IntN(historyKeys))
	began := time.Now().UnixNano()
	object, err := maps.Get(ctx, key, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	seen := object.Data["v"]
	done := []porcupine.Operation{{ClientId: client, Input: action{key: key}, Call: began, Output: outcome{value: seen}, Return: time.Now().UnixNano()}}
	if random.IntN(4) == 0 {
		return done, nil
	}
	next := fmt.Sprintf("%d-%d", client, i)
	object.Data["v"] = next
	began = time.Now().UnixNano()
	_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) {
		return nil, err
	}
	return append(done, porcupine.Operation{
		ClientId: client, Input: action{key: key, replace: true, seen: seen, next: next}, Call: began,
		Output: outcome{replaced: err == nil}, Return: time.Now().UnixNano(),
	}), nil
}
