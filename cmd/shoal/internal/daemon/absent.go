//go:build linux

package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"shoal/api"
)

// forgetAfter is how long a member may not answer before it is taken out by
// itself: until then nothing deleted is reaped, which a cell cannot bear for
// ever, and a host that is repaired within a day comes back as it was.
const forgetAfter = 24 * time.Hour

// absence has since when members do not answer, as far as this host saw; after
// its start it counts anew.
type absence map[string]time.Time

// overdue returns the members for this host to forget. Of the members that
// answer the first by name does it, and only while they are more than half of
// all: of two halves that do not see each other, each would forget the other.
func (a absence) overdue(now time.Time, self string, members, alive []string) []string {
	var absent []string
	answering := 0
	for _, m := range members {
		if slices.Contains(alive, m) {
			answering++
			delete(a, m)
			continue
		}
		if _, known := a[m]; !known {
			a[m] = now
		}
		absent = append(absent, m)
	}
	for m := range a {
		if !slices.Contains(members, m) {
			delete(a, m)
		}
	}
	first := ""
	for _, m := range members {
		if slices.Contains(alive, m) && (first == "" || m < first) {
			first = m
		}
	}
	if first != self || 2*answering <= len(members) {
		return nil
	}
	return slices.DeleteFunc(absent, func(m string) bool { return now.Sub(a[m]) < forgetAfter })
}

// forgetLongGone takes out members that have failed for forgetAfter.
func (p *peer) forgetLongGone(ctx context.Context, absent absence, now time.Time) error {
	var members []string
	for _, m := range p.node.registered() {
		if !slices.Contains(members, m.Name) {
			members = append(members, m.Name)
		}
	}
	for _, name := range absent.overdue(now, p.identity.Name, members, p.node.Names()) {
		since := absent[name]
		cell := &cellMembers{cellNode: p.node, records: api.CellRecords(p.db)}
		if err := cell.Forget(ctx, name); err != nil {
			return err
		}
		if d := p.departure.Load(); d != nil {
			if err := d.removeNode(ctx, name); err != nil {
				return fmt.Errorf("remove node %s: %w", name, err)
			}
		}
		p.log.Warn("a member that did not answer for long is forgotten; should it come back, it joins anew", "member", name, "since", since, "limit", forgetAfter)
	}
	return nil
}
