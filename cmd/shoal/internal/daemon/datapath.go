//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"

	v1 "shoal/api/control/v1"
	"shoal/netdp"
	"shoal/netdp/flows"
	netservices "shoal/netdp/services"
)

// mapWarnRatio is how full a kernel map may be before people are told.
const mapWarnRatio = 0.9

// The reasons of Events about the host: what was put back, and room for policies.
const (
	repairReason = "DatapathRepaired"
	fullReason   = "DatapathFull"
	roomReason   = "DatapathReady"
)

// watchDatapath is what the agent serves of the datapath, by pattern.
func (p *peer) watchDatapath(shared informers.SharedInformerFactory, services *netservices.Controller, announced func() []netip.Addr) (map[string]http.Handler, error) {
	names, err := flows.NewNames(shared)
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{
		"GET " + v1.FlowsPath:    flows.NewServer(p.datapath, names, p.config.Name, p.log.With("part", "flows")),
		"GET " + v1.ServicesPath: netservices.NewComparer(services, p.datapath, names.End, announced),
	}, nil
}

// keepDatapath puts back what somebody takes away of the datapath, counts what it
// holds, and tells it of this host's addresses.
func (p *peer) keepDatapath(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return p.datapath.KeepAttached(ctx, func(r netdp.Repair) {
			p.log.Warn("datapath repaired", "part", "netdp", "what", r.What, "error", r.Err)
			p.agent.NodeEvent(corev1.EventTypeWarning, repairReason, r.String())
		})
	})
	group.Go(func() error { return p.datapath.KeepCounted(ctx) })
	group.Go(func() error { return p.tellRoom(ctx) })
	group.Go(func() error { return p.followNodeIPs(ctx) })
	return group.Wait()
}

// roomInterval is how often it is looked whether maps are full; what begins and
// ends between is told of by the log, and Events of services, alone.
const roomInterval = 5 * time.Second

// tellRoom has the Node's condition follow what there is room for, and an Event of
// the Node when there is none for network policies, and when there is again: whose
// policy is kept out, nobody can tell, as all share the maps.
func (p *peer) tellRoom(ctx context.Context) error {
	tick := time.NewTicker(roomInterval)
	defer tick.Stop()
	said := p.nodeConditions()
	for was := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := p.nodeConditions(); !slices.Equal(now, said) {
			said = now
			p.agent.LookAtNode()
		}
		why := p.datapath.PolicyWithoutRoom()
		switch {
		case why != "" && was == "":
			p.agent.NodeEvent(corev1.EventTypeWarning, fullReason,
				"no room in the kernel's maps for all network policies; less is allowed than they say, what is open goes on, and it is tried again by itself: "+why)
		case why == "" && was != "":
			p.agent.NodeEvent(corev1.EventTypeNormal, roomReason, "all network policies are in effect again")
		}
		was = why
	}
}

// fullCondition is the type of the Node's condition that says whether the kernel's
// maps have room for all that they should hold.
const fullCondition = "DatapathFull"

// contestedCondition is the type of the Node's condition that says whether somebody
// keeps taking away what shoal puts back.
const contestedCondition = "DatapathContested"

// nodeConditions are those of the Node that are not the agent's to know.
func (p *peer) nodeConditions() []corev1.NodeCondition {
	c := corev1.NodeCondition{
		Type: fullCondition, Status: corev1.ConditionFalse, Reason: "DatapathHasRoom",
		Message: "the kernel's maps have room for all services and network policies",
	}
	var lacks []string
	if left := p.datapath.WithoutRoom(); len(left) > 0 {
		lacks = append(lacks, fmt.Sprintf("%d ports of services (%s)", len(left), shorten(left)))
	}
	if why := p.datapath.PolicyWithoutRoom(); why != "" {
		lacks = append(lacks, "some network policies ("+why+")")
	}
	if len(lacks) > 0 {
		c.Status, c.Reason = corev1.ConditionTrue, "NoRoom"
		c.Message = "the kernel's maps have no room for " + strings.Join(lacks, " and ") + "; what is open goes on, and it is tried again by itself; --map-limits gives more"
	}
	return []corev1.NodeCondition{c, p.contestedCondition()}
}

func (p *peer) contestedCondition() corev1.NodeCondition {
	c := corev1.NodeCondition{
		Type: contestedCondition, Status: corev1.ConditionFalse, Reason: "DatapathIsOwn",
		Message: "nobody keeps taking away what shoal makes of this host's network",
	}
	if left := p.datapath.Contested(); len(left) > 0 {
		c.Status, c.Reason = corev1.ConditionTrue, "RemovedAgain"
		c.Message = "again and again " + shorten(left) + "; " + contestedFix
	}
	return c
}

// contestedFix says what to do about it.
const contestedFix = "it is put back ever more seldom, at least every few minutes; find the program that does it (ip monitor; sysctl.d, NetworkManager, firewalls) and have it leave shoal's alone"

// Alarms implements control.Alarming.
func (h *controlHost) Alarms() []v1.Alarm {
	out := h.networkAlarm()
	if left := h.datapath.WithoutRoom(); len(left) > 0 {
		out = append(out, v1.Alarm{
			Code: "datapath-full", Severity: v1.Critical,
			Title: fmt.Sprintf("%s has no room in the kernel's maps for %d ports of services: %s", h.config.Name, len(left), shorten(left)),
			Fix:   "delete services or endpoints; shoal services shows what is missing, and it is tried again by itself",
		})
	}
	if why := h.datapath.PolicyWithoutRoom(); why != "" {
		out = append(out, v1.Alarm{
			Code: "datapath-full-policy", Severity: v1.Critical,
			Title: fmt.Sprintf("%s has no room in the kernel's maps for all network policies, and allows less than they do: %s", h.config.Name, why),
			Fix:   "delete network policies, or rules and ranges of addresses in them; it is tried again by itself",
		})
	}
	if left := h.datapath.Contested(); len(left) > 0 {
		out = append(out, v1.Alarm{
			Code: "datapath-contested", Severity: v1.Warning, Fix: contestedFix,
			Title: fmt.Sprintf("somebody takes away what shoal makes of the network of %s: again and again %s", h.config.Name, shorten(left)),
		})
	}
	for _, f := range h.datapath.MapFills() {
		if f.Recycles || f.Ratio() < mapWarnRatio {
			continue // the least recently used entries make room in good time
		}
		out = append(out, v1.Alarm{
			Code: "datapath-map-" + f.Map, Severity: v1.Warning,
			Fix:   "delete services, endpoints or pods before it is full",
			Title: fmt.Sprintf("kernel map %s of %s has %d of %d entries", f.Map, h.config.Name, f.Entries, f.MaxEntries),
		})
	}
	return out
}

// shorten lists the first few names.
func shorten(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
