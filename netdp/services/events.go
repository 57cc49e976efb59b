package services

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"shoal/netdp"
)

// The reasons of Events.
const (
	reasonTaken = "AddressTaken"
	reasonInUse = "PortInUse"
	reasonFull  = "DatapathFull"  // a kernel map of the host has no room for it
	reasonRoom  = "DatapathReady" // it has room again
	// reasonReserved: it wants a port of the daemons at an address of a host.
	reasonReserved = "PortReserved"
)

// tell logs what went wrong with a service or pod; what its owner can mend is
// an Event, too, once for as long as it says the same.
func (c *Controller) tell(key string, err error) {
	c.log.Warn("set service", "service", key, "error", err)
	var taken *netdp.FrontendTakenError
	if errors.As(err, &taken) {
		c.event(key, reasonTaken, fmt.Sprintf("on host %s: %v", c.o.Node, taken))
	}
	if errors.Is(err, netdp.ErrFull) {
		c.full[key] = struct{}{}
		c.event(key, reasonFull, fmt.Sprintf("host %s does not forward all of this: %v. What is open goes on. "+
			"It is tried again by itself; delete services or endpoints to make room", c.o.Node, err))
	}
}

// tellRoom tells of what was kept out before, and is in now.
func (c *Controller) tellRoom(key string) {
	if _, ok := c.full[key]; !ok {
		return
	}
	delete(c.full, key)
	c.log.Info("there is room for the service again", "service", key)
	c.send(key, corev1.EventTypeNormal, reasonRoom, "host "+c.o.Node+" has room again, and forwards all of this")
}

// tellInUse: the process was there first, and still its callers reach the
// service now.
func (c *Controller) tellInUse(key string, s netdp.Service, taken []netdp.Frontend) {
	names := make([]string, len(taken))
	for i, f := range taken {
		names[i] = f.String()
	}
	message := fmt.Sprintf("on host %s a process listens on %s %s, whose callers now reach %s; stop the process (`ss -lntup` names it) or change the port",
		c.o.Node, s.Proto, strings.Join(names, ", "), s.Key)
	c.log.Warn("a process of this host listens on a port of a service", "service", key, "protocol", s.Proto.String(), "ports", names)
	c.event(key, reasonInUse, message)
}

func (c *Controller) event(key, reason, message string) {
	c.send(key, corev1.EventTypeWarning, reason, message)
}

func (c *Controller) send(key, kind, reason, message string) {
	if c.o.Events == nil || c.told[key] == message {
		return
	}
	c.told[key] = message
	ref := c.reference(key)
	if ref == nil {
		return // it is gone
	}
	c.o.Events.Event(ref, kind, reason, message)
}

func (c *Controller) reference(key string) *corev1.ObjectReference {
	if name, ok := strings.CutPrefix(key, podPrefix); ok {
		pod, err := c.pod(name)
		if err != nil || pod == nil {
			return nil
		}
		return &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	}
	svc, err := c.service(key)
	if err != nil {
		return nil
	}
	return &corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, ResourceVersion: svc.ResourceVersion}
}
