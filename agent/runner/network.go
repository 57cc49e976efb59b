package runner

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"shoal/netdp/driver"
	"shoal/netdp/policy"
)

// attach asks the host's network driver for the pod's network.
func (w *worker) attach(ctx context.Context, pod *v1.Pod) error {
	got, err := w.r.Network.Attach(ctx, w.networkPod(pod))
	if err != nil {
		return fmt.Errorf("attach network: %w", err)
	}
	for _, warning := range got.Warnings {
		w.r.Sink.Event(pod, v1.EventTypeWarning, warning.Reason, warning.Message)
	}
	w.box.netns, w.box.ips = got.NetNS, got.Addresses
	return nil
}

func (w *worker) networkPod(pod *v1.Pod) driver.Pod {
	p := driver.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name,
		Identity:    policy.IdentityOf(pod),
		Annotations: pod.Annotations, HostPorts: hostPorts(pod),
		DNS: func(ctx context.Context) (driver.DNS, error) {
			c, err := w.r.podDNS(ctx, pod)
			if err != nil {
				return driver.DNS{}, err
			}
			return driver.DNS{Servers: c.Servers, Searches: c.Searches, Options: c.Options}, nil
		},
	}
	if w.box.users != nil {
		p.NetNS = w.r.pins.path(p.UID, pinNet)
	}
	return p
}

// hostPorts are those of all containers that run beside each other.
func hostPorts(pod *v1.Pod) (out []driver.HostPort) {
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, driver.HostPort{Host: p.HostPort, Container: p.ContainerPort, Protocol: p.Protocol, Address: p.HostIP})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if restartable := pod.Spec.InitContainers[i].RestartPolicy; restartable != nil && *restartable == v1.ContainerRestartPolicyAlways {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}
