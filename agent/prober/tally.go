package prober

type verdict int

const (
	undecided verdict = iota
	passing
	failing
)

// tally turns single results into a verdict by the probe's thresholds.
type tally struct {
	success, failure int32
	run              int32 // equal results in a row; negative for failures
	verdict          verdict
}

// add counts one result and reports the verdict and whether it changed.
func (t *tally) add(ok bool) (verdict, bool) {
	before := t.verdict
	if ok {
		t.run = min(max(t.run, 0)+1, t.success)
		if t.run >= t.success {
			t.verdict = passing
		}
	} else {
		t.run = max(min(t.run, 0)-1, -t.failure)
		if -t.run >= t.failure {
			t.verdict = failing
		}
	}
	return t.verdict, t.verdict != before
}
