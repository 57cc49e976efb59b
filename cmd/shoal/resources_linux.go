package main

import (
	"time"

	"shoal/agent"
)

// ResourceFlags say what of this host pods may have.
type ResourceFlags struct {
	Reserved           string        `placeholder:"NAME=QUANTITY,..." help:"What the host keeps for itself of cpu, memory, ephemeral-storage and pid, as in cpu=500m,memory=1Gi (default: nothing)."`
	EvictionHard       string        `placeholder:"SIGNAL<QUANTITY,..." help:"When to evict pods, as the kubelet's flag has it, or none (default: the kubelet's memory.available<100Mi,nodefs.available<10%,...)."`
	EvictionTransition time.Duration `default:"5m" placeholder:"DURATION" help:"How long a node's condition of pressure stays after it was last met (default ${default})."`
	PodMaxPIDs         int64         `name:"pod-max-pids" default:"4096" placeholder:"N" help:"The most processes and threads one pod may have, -1 for no bound (default ${default})."`
	DevicePluginDir    string        `default:"/var/lib/kubelet/device-plugins" placeholder:"DIR" help:"Where device plugins register, in kubelet.sock; with an empty DIR none can (default ${default})."`
}

func (f ResourceFlags) config() agent.Resources {
	return agent.Resources{PodPIDs: f.PodMaxPIDs, Reserved: f.Reserved, EvictionHard: f.EvictionHard, EvictionTransition: f.EvictionTransition}
}
