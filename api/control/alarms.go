package control

import (
	"fmt"
	"strings"
	"time"

	v1 "shoal/api/control/v1"
)

// When to speak up.
const (
	// diskWarnShare: a compaction may need as much space as the records have, and
	// other programs fill disks too.
	diskWarnShare = 10 // percent free
	// caWarn is how long before its end a CA is spoken of: every kubeconfig has
	// to be made anew with it.
	caWarn = 90 * 24 * time.Hour
	// renewGrace: a certificate is renewed at two thirds of its life; this long
	// after, something keeps the peer from it.
	renewGrace = 24 * time.Hour
	// skewWarn is far above what synchronised clocks differ; beyond 500 ms
	// writes are held back.
	skewWarn = 250 * time.Millisecond
	// lagWarn: a peer this far behind is not just a moment late.
	lagWarn = 10_000
)

// alarms says what in a status a person should know. It is pure.
func alarms(s *v1.Status) []v1.Alarm {
	found := []v1.Alarm{} // an empty list in JSON, never null
	add := func(code, severity string, since time.Time, fix, title string, args ...any) {
		found = append(found, v1.Alarm{Code: code, Severity: severity, Since: since, Fix: fix, Title: fmt.Sprintf(title, args...)})
	}
	disk := s.Disk
	switch free := "df -h " + disk.Path + "; free some space, writes come back by themselves"; {
	case s.Store.Refusing:
		add("disk-full", v1.Critical, time.Time{}, free, "%s refuses writes: its disk is nearly full", s.Peer)
	case disk.TotalBytes > 0 && disk.FreeBytes*100/disk.TotalBytes < diskWarnShare:
		add("disk-low", v1.Warning, time.Time{}, free, "%s has %d%% of its disk free", s.Peer, disk.FreeBytes*100/disk.TotalBytes)
	}
	for _, c := range s.Certificates {
		switch {
		case !s.Time.Before(c.Expires):
			add("certificate-expired", v1.Critical, c.Expires, "restart the daemon on "+s.Peer+": shoal stop; shoal start --detach",
				"certificate %s of %s has expired", c.Name, s.Peer)
		case c.Renews.IsZero() && c.Expires.Sub(s.Time) < caWarn:
			add("authority-expires", v1.Warning, time.Time{}, "plan a new cell, or ask for help: the authority is not replaced by itself",
				"authority %s expires on %s", c.Name, c.Expires.Format(time.DateOnly))
		case !c.Renews.IsZero() && s.Time.Sub(c.Renews) > renewGrace:
			add("certificate-not-renewed", v1.Warning, c.Renews, "restart the daemon on "+s.Peer+": shoal stop; shoal start --detach",
				"certificate %s of %s should have been renewed on %s", c.Name, s.Peer, c.Renews.Format(time.DateOnly))
		}
	}
	versions := map[string][]string{}
	for _, p := range s.Peers {
		if p.State == v1.Failed {
			add("peer-failed", v1.Critical, p.Since, "shoal start on "+p.Name+", or if it is gone for good: shoal node forget "+p.Name,
				"peer %s does not answer", p.Name)
			continue
		}
		if p.State != v1.Alive {
			continue
		}
		versions[p.Version] = append(versions[p.Version], p.Name)
		if p.LagDeltas != nil && *p.LagDeltas > lagWarn {
			add("peer-lagging", v1.Warning, time.Time{}, "shoal doctor on "+p.Name, "peer %s is %d deltas behind", p.Name, *p.LagDeltas)
		}
		if p.SkewMillis != nil {
			skew := time.Duration(*p.SkewMillis * float64(time.Millisecond))
			if skew.Abs() > skewWarn {
				add("clock-skew", v1.Warning, time.Time{}, "timedatectl set-ntp true on "+p.Name, "the clock of %s differs by %s", p.Name, skew.Round(time.Millisecond))
			}
		}
	}
	delete(versions, "")
	if len(versions) > 1 {
		var parts []string
		for _, p := range s.Peers {
			if p.State == v1.Alive && p.Version != "" {
				parts = append(parts, p.Name+" "+p.Version)
			}
		}
		add("versions-differ", v1.Warning, time.Time{}, "bring all peers to one release once the upgrade is done", "peers run different releases: %s", strings.Join(parts, ", "))
	}
	return found
}
