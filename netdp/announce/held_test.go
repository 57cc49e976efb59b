package announce

import (
	"net"
	"testing"
	"time"
)

// lived runs an address on a clock of its own and notes what is sent.
type lived struct {
	*held
	now          time.Time
	probes, told int
	changes      int
}

func newLived() *lived {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &lived{held: newHeld(now), now: now}
}

// pass lets time go by, as the Responder's timer would.
func (l *lived) pass(d time.Duration) {
	for end := l.now.Add(d); ; l.now = l.due {
		if l.step(l.now, func() { l.probes++ }, func() { l.told++ }) {
			l.changes++
		}
		if l.idle() || l.due.After(end) {
			l.now = end
			return
		}
	}
}

func (l *lived) hears(c claim, ofHost bool) {
	if l.heard(c, ofHost, l.now, retryTaken) {
		l.changes++
	}
}

func TestAnAddressIsTakenWhenNobodyHasIt(t *testing.T) {
	l := newLived()
	l.pass(probeTimes*probeEvery - 1)
	if l.phase != probing || l.told > 0 {
		t.Fatalf("phase %d, told %d times before all probes were waited for", l.phase, l.told)
	}
	l.pass(time.Hour)
	if l.phase != holding || l.probes != probeTimes || l.told != announceTimes || l.changes != 1 || !l.idle() {
		t.Fatalf("%+v", l)
	}
	l.renew(l.now)
	l.pass(time.Hour)
	if l.probes != probeTimes || l.told != 2*announceTimes {
		t.Errorf("renewed: probed %d times, told %d", l.probes, l.told)
	}
}

// Hosts come and go, quicker than an address is probed.
func TestRenewedWhileProbed(t *testing.T) {
	l := newLived()
	for range 2 * probeTimes {
		l.pass(probeEvery / 2)
		l.renew(l.now)
	}
	l.pass(0)
	if l.phase != holding || l.probes != probeTimes {
		t.Fatalf("renewed while it is probed: %+v", l)
	}

	l = newLived()
	l.pass(probeTimes*probeEvery - 1)
	l.reach(l.now) // a link on which nobody was asked yet
	l.pass(probeTimes*probeEvery - 1)
	if l.phase != probing || l.probes != 2*probeTimes {
		t.Errorf("another interface while it is probed: %+v", l)
	}
}

func TestAnAddressThatAnotherMachineHas(t *testing.T) {
	stranger := net.HardwareAddr{2, 1, 1, 1, 1, 1}
	for name, c := range map[string]claim{"has it": {mac: stranger}, "is about to take it": {mac: stranger, probe: true}} {
		l := newLived()
		l.pass(probeEvery)
		l.hears(c, false)
		l.pass(retryTaken - probeEvery)
		if l.phase != taken || l.told > 0 || l.holder.String() != stranger.String() || l.changes != 1 {
			t.Fatalf("%s: %+v", name, l)
		}
		l.pass(probeEvery) // it is asked again
		if l.phase != probing || l.holder == nil {
			t.Fatalf("%s: %+v", name, l)
		}
		l.hears(claim{mac: stranger}, false)
		l.pass(retryTaken + time.Hour) // and has left it
		if l.phase != holding || l.holder != nil || l.told != announceTimes {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestAnAddressIsDefendedOnce(t *testing.T) {
	stranger := claim{mac: net.HardwareAddr{2, 1, 1, 1, 1, 1}}
	l := newLived()
	l.pass(time.Hour)
	l.hears(claim{mac: stranger.mac, probe: true}, false) // it is answered
	for range 3 {
		told := l.told
		l.hears(stranger, false)
		l.pass(defendEvery + 1)
		if l.phase != holding || l.told != told+1 {
			t.Fatalf("a claim now and then: %+v", l)
		}
	}
	l.hears(stranger, false)
	l.pass(defendEvery / 2)
	l.hears(stranger, false)
	if l.phase != taken || l.holder == nil {
		t.Errorf("a machine that insists: %+v", l)
	}
}

func TestAHostThatStillAnswersIsWaitedFor(t *testing.T) {
	host := claim{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	l := newLived()
	l.hears(claim{mac: host.mac, probe: true}, true) // it looks too
	for range 3 {
		l.pass(probeEvery)
		l.hears(host, true)
	}
	if l.phase != probing || l.told > 0 || l.changes > 0 {
		t.Fatalf("%+v", l)
	}
	l.pass(time.Minute) // it has stopped
	if l.phase != holding {
		t.Fatalf("%+v", l)
	}
	l.hears(host, true)
	if l.phase != holding {
		t.Errorf("a host takes an address away: %+v", l)
	}

	// One that does not see this host goes on, and is not waited for any longer.
	l = newLived()
	for l.now.Sub(l.since) <= hostPatience {
		l.pass(probeEvery)
		l.hears(host, true)
	}
	l.pass(retryHost + time.Second)
	if l.phase != holding {
		t.Errorf("after %s: %+v", hostPatience, l)
	}
}
