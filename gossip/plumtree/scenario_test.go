package plumtree

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output in testdata/*.txt")

// TestScenarios runs testdata/*.txt. A line is a command; what follows it,
// indented, is what must happen:
//
//	peers NAME…             peers without links
//	link A B                a link, both ends
//	unlink A B
//	write A SEQUENCE TEXT   A publishes
//	deliver                 all that is under way arrives, in order, until quiet
//	lose A B                what is under way from A to B is lost
//	wait DURATION           time passes; whoever has something due ticks
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { runScenario(t, file) })
	}
}

func runScenario(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{trees: map[Peer]*Tree{}}
	var got strings.Builder
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&got, line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := s.do(strings.Fields(line)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got.WriteString(s.log.String())
		s.log.Reset()
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got.String() != string(data) {
		t.Errorf("%s differs; this is what happened:\n%s", file, got.String())
	}
}

type scenario struct {
	names    []Peer
	trees    map[Peer]*Tree
	underway []flight
	now      time.Duration
	log      strings.Builder
}

type flight struct {
	from Peer
	Envelope
}

func (s *scenario) do(words []string) error {
	switch words[0] {
	case "peers":
		for _, w := range words[1:] {
			s.names = append(s.names, Peer(w))
			s.trees[Peer(w)] = New(Peer(w), DefaultTiming)
		}
	case "link", "unlink":
		a, b := Peer(words[1]), Peer(words[2])
		if words[0] == "link" {
			s.trees[a].Connect(b)
			s.trees[b].Connect(a)
		} else {
			s.trees[a].Disconnect(b)
			s.trees[b].Disconnect(a)
		}
	case "write":
		sequence, err := strconv.ParseUint(words[2], 10, 64)
		if err != nil {
			return err
		}
		s.trees[Peer(words[1])].Broadcast(ID{1, sequence}, []byte(words[3]), s.now)
		s.take(Peer(words[1]))
	case "lose":
		s.underway = slices.DeleteFunc(s.underway, func(f flight) bool {
			lost := f.from == Peer(words[1]) && f.To == Peer(words[2])
			if lost {
				fmt.Fprintf(&s.log, "\tlost %s -> %s %s\n", f.from, f.To, show(f.Message))
			}
			return lost
		})
	case "deliver":
		for len(s.underway) > 0 {
			f := s.underway[0]
			s.underway = s.underway[1:]
			fmt.Fprintf(&s.log, "\t%s -> %s %s\n", f.from, f.To, show(f.Message))
			s.trees[f.To].Step(f.from, f.Message, s.now)
			s.take(f.To)
		}
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			return err
		}
		s.now += d
		for _, p := range s.names {
			s.trees[p].Tick(s.now)
			s.take(p)
		}
	default:
		return fmt.Errorf("unknown command %q", words[0])
	}
	return nil
}

func (s *scenario) take(p Peer) {
	out := s.trees[p].Take()
	for _, d := range out.Deliver {
		fmt.Fprintf(&s.log, "\t%s has %d %q after %d hops\n", p, d.ID.Sequence, d.Payload, d.Hops)
	}
	for _, e := range out.Send {
		s.underway = append(s.underway, flight{p, e})
	}
}

func show(m Message) string {
	text := m.Type.String()
	for _, i := range m.Items {
		text += fmt.Sprintf(" %d@%d", i.ID.Sequence, i.Hops)
	}
	return text
}
