package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func ptr[T any](v T) *T { return &v }

// TestRunner runs the subtests on one containerd; each has pods of its own.
func TestRunner(t *testing.T) {
	b := newBed(t)
	for name, test := range map[string]func(*bed){
		"status of a running pod":        runningPod,
		"environment and identity":       environmentPod,
		"environments beyond memory":     bombPods,
		"volumes":                        volumesPod,
		"ways to mount":                  mountedPod,
		"what cannot be mounted":         unmountablePods,
		"block devices":                  blockPod,
		"containers share a pod":         sharingPod,
		"init containers":                initPod,
		"restart and back-off":           restartPod,
		"policies end a pod":             policyPods,
		"memory limit":                   oomPod,
		"memory limit met by a child":    oomChild,
		"fork bomb":                      forkBomb,
		"failed start":                   startErrorPod,
		"missing configuration":          configErrorPod,
		"missing images":                 imagePods,
		"pulls":                          pullPods,
		"unsupported volume":             unsupportedPod,
		"grace and hooks":                gracePod,
		"probes":                         probedPod,
		"limits are cgroup limits":       limitedPod,
		"security":                       securedPod,
		"exec":                           execPod,
		"removed without a delete first": removedPod,
		"rejected by admission":          rejectedPod,
		"last words":                     lastWordsPod,
		"sidecars stop last":             sidecarPod,
		"too little memory to start":     starvedPod,
		"what comes in a moment":         soonPod,
		"a stop signal of its own":       stopSignalPod,
		"looked at without its objects":  bareLook,
	} {
		t.Run(name, func(t *testing.T) { test(b.with(t)) })
	}
}

func runningPod(b *bed) {
	p := pod("running", "echo hello; "+sleeper)
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue}}
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	st := b.last(p.UID)
	c := st.ContainerStatuses[0]
	if c.State.Running == nil || !c.Ready || c.RestartCount != 0 || !strings.HasPrefix(c.ContainerID, "containerd://") ||
		c.Image != testImage || !strings.HasPrefix(c.ImageID, "sha256:") {
		b.t.Errorf("container status: %+v", c)
	}
	if st.HostIP != "192.0.2.1" || st.PodIP == "" || st.StartTime == nil || st.QOSClass != v1.PodQOSBestEffort {
		b.t.Errorf("pod status: %+v", st)
	}
	conditions := map[v1.PodConditionType]v1.ConditionStatus{}
	for _, c := range st.Conditions {
		conditions[c.Type] = c.Status
	}
	for _, kind := range []v1.PodConditionType{v1.PodScheduled, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodReadyToStartContainers} {
		if conditions[kind] != v1.ConditionTrue {
			b.t.Errorf("condition %s is %q", kind, conditions[kind])
		}
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		b.event(p, reason)
	}
	b.remove(p)
	if _, err := os.Stat(LogDir(filepath.Join(b.dir, "logs"), p)); !os.IsNotExist(err) {
		b.t.Errorf("logs of a deleted pod are still there: %v", err)
	}
}

func environmentPod(b *bed) {
	b.objects.configMaps["test/cm"] = &v1.ConfigMap{Data: map[string]string{"k": "from-cm", "ALL": "yes"}}
	b.objects.secrets["test/sec"] = &v1.Secret{Data: map[string][]byte{"s": []byte("from-secret")}}
	p := pod("env", `env | sort; id -un; id -G; pwd; hostname; cat /etc/hosts; echo args "$0" "$1"; `+sleeper, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Args = []string{"$(A)-x", "$$(A)"}
		c.WorkingDir = "/tmp"
		c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
		c.EnvFrom = []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}}
		c.Env = []v1.EnvVar{
			{Name: "A", Value: "a"},
			{Name: "B", Value: "$(A)b$(MISSING)"},
			{Name: "CM", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{Key: "k", LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
			{Name: "SEC", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{Key: "s", LocalObjectReference: v1.LocalObjectReference{Name: "sec"}}}},
			{Name: "OPT", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{Key: "s", Optional: ptr(true), LocalObjectReference: v1.LocalObjectReference{Name: "none"}}}},
			{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "NAME", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory"}}},
			{Name: "CPUS", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		}
		p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr(int64(1234)), SupplementalGroups: []int64{55}}
		p.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"alias"}}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.remove1(p, func(out string) {
		for _, want := range []string{
			"A=a", "B=ab$(MISSING)", "CM=from-cm", "SEC=from-secret", "P_ALL=yes", "FROM_IMAGE=yes", "NAME=env",
			"MEM=67108864", "CPUS=7", "KUBERNETES_SERVICE_HOST=10.0.0.1", "HOSTNAME=env", "IP=" + b.last(p.UID).PodIP,
			" F web\n", " F 1234 55 77\n", " F /tmp\n", " F env\n", "192.0.2.9\talias", b.last(p.UID).PodIP + "\tenv", "args a-x $(A)",
		} {
			if !strings.Contains(out, want) {
				b.t.Errorf("output lacks %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "OPT=") {
			b.t.Error("an optional variable without a source is set")
		}
	})
}

// bombPods: what $(VAR) would make larger than exec(2) takes, and than memory, is
// refused with its name, and harms nobody.
func bombPods(b *bed) {
	text := strings.Repeat("a", 100_000)
	doubling := []v1.EnvVar{{Name: "A0", Value: "0123456789abcdef"}}
	for i := 1; i < 12; i++ { // A11 would have 128 GiB
		doubling = append(doubling, v1.EnvVar{Name: fmt.Sprint("A", i), Value: strings.Repeat(fmt.Sprintf("$(A%d)", i-1), 8)})
	}
	var many []v1.EnvVar
	for i := range 30 {
		many = append(many, v1.EnvVar{Name: fmt.Sprint("M", i), Value: text})
	}
	for name, test := range map[string]struct {
		change func(*v1.Container)
		wanted string
	}{
		"doubling": {func(c *v1.Container) { c.Env = doubling }, "environment variable A5: 524288 bytes with its variables expanded, and at most 131071"},
		"total":    {func(c *v1.Container) { c.Env = many }, "environment variable M20: the environment and the arguments up to here have 21"},
		"args": {func(c *v1.Container) {
			c.Env = []v1.EnvVar{{Name: "A", Value: text}}
			c.Args = slices.Repeat([]string{"$(A)"}, 200_000)
		}, "args[19]: the environment and the arguments up to here have 21"},
		"command": {func(c *v1.Container) {
			c.Env = []v1.EnvVar{{Name: "A", Value: text}}
			c.Command = []string{"echo", strings.Repeat("$(A)", 200_000)}
		}, "command[1]: 20000000000 bytes"},
		"path": {func(c *v1.Container) {
			c.Env = []v1.EnvVar{{Name: "A", Value: text}}
			c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v", SubPathExpr: strings.Repeat("$(A)", 200_000)}}
		}, "subPathExpr: 20000000000 bytes with its variables expanded, and at most 4095"},
	} {
		p := pod("bomb-"+name, sleeper, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			test.change(&p.Spec.Containers[0])
		})
		b.runner.Set(p)
		c := b.container(p, "main", "refused", waitingFor(reasonConfigError))
		if !strings.Contains(c.State.Waiting.Message, test.wanted) {
			b.t.Errorf("%s: want %q, got %.300q", name, test.wanted, c.State.Waiting.Message)
		}
		b.remove(p)
	}
	fits := pod("fits", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", Value: text}, {Name: "B", Value: "$(A)$(A0)"}}
		p.Spec.Containers[0].Args = []string{"$(A)", "$(B)"}
	})
	b.runner.Set(fits)
	b.phase(fits, v1.PodRunning)
	b.remove(fits)
}

// remove1 checks the log of a pod of one container once its script is past
// its output, then removes the pod.
func (b *bed) remove1(p *v1.Pod, check func(string)) {
	b.t.Helper()
	b.run(p, "true") // the script's output precedes its sleep by far; this is a round trip later
	waitFor(b.t, "log of "+p.Name, func() bool { return strings.Contains(b.logs(p, "main", 0), "F args") })
	check(b.logs(p, "main", 0))
	b.remove(p)
}

func volumesPod(b *bed) {
	b.objects.configMaps["test/conf"] = &v1.ConfigMap{Data: map[string]string{"a": "A", "b": "B"}}
	b.objects.secrets["test/sec2"] = &v1.Secret{Data: map[string][]byte{"key": []byte("hush")}}
	host := b.t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("host"), 0o644); err != nil {
		b.t.Fatal(err)
	}
	script := `cat /conf/a /secret/key /host/f /down/name /var/run/token /sub; grep -c " /mem tmpfs" /proc/mounts; ls -ld /empty; echo args; ` + sleeper
	p := pod("vols", script, func(p *v1.Pod) {
		p.Labels = map[string]string{"l": "v"}
		p.Spec.ServiceAccountName = "acc"
		p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(77))}
		p.Spec.Volumes = []v1.Volume{
			{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
			{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "sec2"}}},
			{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}},
			{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host, Type: ptr(v1.HostPathDirectory)}}},
			{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['l']"}}}}}},
			{Name: "tok", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}}}}},
			{Name: "unmounted", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}}}},
		}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
			{Name: "conf", MountPath: "/conf"}, {Name: "sec", MountPath: "/secret", ReadOnly: true}, {Name: "empty", MountPath: "/empty"},
			{Name: "mem", MountPath: "/mem"}, {Name: "host", MountPath: "/host"}, {Name: "down", MountPath: "/down"},
			{Name: "tok", MountPath: "/var/run"}, {Name: "conf", MountPath: "/sub", SubPath: "b"},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	waitFor(b.t, "the script", func() bool { return strings.Contains(b.logs(p, "main", 0), "F args") })
	// A changed object reaches the running container.
	b.objects.configMaps["test/conf"] = &v1.ConfigMap{Data: map[string]string{"a": "A2", "b": "B"}}
	b.runner.Refresh(p.UID)
	waitFor(b.t, "the changed config map", func() bool { return b.run(p, "cat", "/conf/a") == "A2" })
	relabelled := p.DeepCopy()
	relabelled.Labels = map[string]string{"l": "v2"}
	b.runner.Set(relabelled)
	waitFor(b.t, "the changed label", func() bool { return b.run(p, "cat", "/down/name") == "v2" })
	b.remove1(p, func(out string) {
		if !strings.Contains(out, "Ahushhostvtoken-of-accB1\n") {
			b.t.Errorf("volume contents:\n%s", out)
		}
		if !strings.Contains(out, "drwxrwsrwx") || !strings.Contains(out, " extra ") {
			b.t.Errorf("emptyDir has the wrong owner or mode:\n%s", out)
		}
	})
	if _, err := os.Stat(host + "/f"); err != nil {
		b.t.Errorf("host path was removed with the pod: %v", err)
	}
}

func sharingPod(b *bed) {
	p := pod("share", `echo from-main > /data/x; hostname > /dev/shm/h; httpd -p 127.0.0.1:8080 -h /data; echo args; `+sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		mount := []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
		p.Spec.Containers[0].VolumeMounts = mount
		other := *p.Spec.Containers[0].DeepCopy()
		other.Name = "other"
		other.Command = []string{"sh", "-c", `until wget -qO- http://127.0.0.1:8080/x; do sleep 0.1; done; cat /dev/shm/h; echo args; ` + sleeper}
		p.Spec.Containers = append(p.Spec.Containers, other)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	waitFor(b.t, "the other container", func() bool { return strings.Contains(b.logs(p, "other", 0), "args") })
	if out := b.logs(p, "other", 0); !strings.Contains(out, "from-main") || !strings.Contains(out, "F share\n") {
		b.t.Errorf("the other container saw:\n%s", out)
	}
	if shims := b.shims(p); len(shims) != 1 {
		b.t.Errorf("pod has %d shims, want 1", len(shims))
	}
	b.remove(p)
}

func initPod(b *bed) {
	withInit := func(script string, policy v1.RestartPolicy) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.RestartPolicy = policy
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			mount := []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
			for _, name := range []string{"first", "second"} {
				c := *p.Spec.Containers[0].DeepCopy()
				c.Name, c.Command, c.VolumeMounts = name, []string{"sh", "-c", script}, mount
				p.Spec.InitContainers = append(p.Spec.InitContainers, c)
			}
			p.Spec.Containers[0].VolumeMounts = mount
		}
	}
	p := pod("init", `cat /data/order; echo args; `+sleeper, withInit(`echo x >> /data/order`, v1.RestartPolicyAlways))
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	st := b.last(p.UID)
	for _, c := range st.InitContainerStatuses {
		if c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" || !c.Ready {
			b.t.Errorf("init container status: %+v", c)
		}
	}
	b.remove1(p, func(out string) {
		if strings.Count(out, "F x\n") != 2 {
			b.t.Errorf("main saw:\n%s", out)
		}
	})
	failing := pod("initfail", sleeper, withInit(`exit 4`, v1.RestartPolicyNever))
	b.runner.Set(failing)
	b.phase(failing, v1.PodFailed)
	if c := b.last(failing.UID).ContainerStatuses[0]; c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" {
		b.t.Errorf("main container of a pod whose init failed: %+v", c.State)
	}
	b.remove(failing)
}

func restartPod(b *bed) {
	p := pod("crash", `echo attempt; exit 3`)
	b.runner.Set(p)
	c := b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 ||
		c.LastTerminationState.Terminated.Reason != "Error" {
		b.t.Errorf("container status: %+v", c)
	}
	b.event(p, "BackOff")
	for attempt := range int32(2) {
		if !strings.Contains(b.logs(p, "main", attempt), "attempt") {
			b.t.Errorf("attempt %d left no log", attempt)
		}
	}
	b.remove(p)
}

func policyPods(b *bed) {
	for _, test := range []struct {
		name   string
		policy v1.RestartPolicy
		script string
		phase  v1.PodPhase
		code   int32
	}{
		{"never-ok", v1.RestartPolicyNever, "exit 0", v1.PodSucceeded, 0},
		{"never-bad", v1.RestartPolicyNever, "exit 7", v1.PodFailed, 7},
		{"onfailure", v1.RestartPolicyOnFailure, "exit 0", v1.PodSucceeded, 0},
	} {
		p := pod(test.name, test.script, func(p *v1.Pod) { p.Spec.RestartPolicy = test.policy })
		b.runner.Set(p)
		b.phase(p, test.phase)
		c := b.last(p.UID).ContainerStatuses[0]
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != test.code || c.RestartCount != 0 {
			b.t.Errorf("%s: %+v", test.name, c)
		}
		waitFor(b.t, "resources of a finished pod", func() bool {
			attached, _ := b.network.Attached(context.Background())
			return !has(attached, string(p.UID))
		})
		b.logs(p, "main", 0)
		b.remove(p)
	}
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func oomPod(b *bed) {
	p := pod("oom", `tail /dev/zero`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].Command = []string{"tail", "/dev/zero"}
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("16Mi")}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	if s := b.last(p.UID).ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		b.t.Errorf("state: %+v", s)
	}
	b.remove(p)
}

func startErrorPod(b *bed) {
	p := pod("noexe", "", func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such"} })
	b.runner.Set(p)
	c := b.container(p, "main", "failed start", func(c v1.ContainerStatus) bool {
		return c.LastTerminationState.Terminated != nil && c.State.Waiting != nil
	})
	if l := c.LastTerminationState.Terminated; l.Reason != "StartError" || l.ExitCode != 128 || !strings.Contains(l.Message, "/no/such") {
		b.t.Errorf("last state: %+v", l)
	}
	b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	b.remove(p)
}

func configErrorPod(b *bed) {
	p := pod("noconf", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "X", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{Key: "k", LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "config error", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "late") {
		b.t.Errorf("message: %s", c.State.Waiting.Message)
	}
	b.remove(p)
	root := pod("nonroot", sleeper, func(p *v1.Pod) { p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: ptr(true)} })
	b.runner.Set(root)
	b.container(root, "main", "config error", waitingFor("CreateContainerConfigError"))
	b.remove(root)
}

func imagePods(b *bed) {
	never := pod("never", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nothere:1", v1.PullNever
	})
	// Port 1 on loopback refuses at once.
	missing := pod("missing", sleeper, func(p *v1.Pod) { p.Spec.Containers[0].Image = "127.0.0.1:1/no/image:1" })
	b.runner.Set(never)
	b.runner.Set(missing)
	b.container(never, "main", "never pulled", waitingFor("ErrImageNeverPull"))
	b.event(missing, "Failed")
	c := b.container(missing, "main", "pull back-off", func(c v1.ContainerStatus) bool {
		return waitingFor("RegistryUnavailable")(c) || waitingFor("ImagePullBackOff")(c)
	})
	if !strings.Contains(c.State.Waiting.Message, "127.0.0.1:1/no/image:1") {
		b.t.Errorf("message: %s", c.State.Waiting.Message)
	}
	b.container(missing, "main", "pull back-off", waitingFor("ImagePullBackOff"))
	b.remove(never, missing)
}

func unsupportedPod(b *bed) {
	p := pod("nfs", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "n", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: "x", Path: "/"}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "n", MountPath: "/n"}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "unsupported", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "spec.volumes[0]") {
		b.t.Errorf("message does not name the field: %s", c.State.Waiting.Message)
	}
	b.event(p, "Unsupported")
	b.remove(p)

	file := pod("envfile", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "x", Key: "A"}}}}
	})
	b.runner.Set(file)
	c = b.container(file, "main", "unsupported", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "container main: env A: valueFrom.fileKeyRef") {
		b.t.Errorf("message does not name the field: %s", c.State.Waiting.Message)
	}
	b.remove(file)
}

func gracePod(b *bed) {
	p := pod("stubborn", `trap 'echo told' TERM; echo args; while :; do sleep 1; done`, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
			PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo hook > /proc/1/fd/1"}}},
			PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo begun > /proc/1/fd/1"}}},
		}
	})
	b.runner.Set(p)
	b.wait(p, "ready after its hook", func(s v1.PodStatus) bool { return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].Ready })
	b.runner.Set(deletion(p, 3600)) // the hook and the shell have as long as they need
	waitFor(b.t, "hooks and signal in the log", func() bool {
		out := b.logs(p, "main", 0)
		return strings.Contains(out, "F begun") && strings.Contains(out, "F hook") && strings.Contains(out, "F told")
	})
	b.runner.Set(deletion(p, 1))
	c := b.container(p, "main", "killed", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if c.State.Terminated.ExitCode != 137 {
		b.t.Errorf("state: %+v", c.State.Terminated)
	}
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
}

func probedPod(b *bed) {
	const patient = 120 // seconds: a command that takes long is no failure
	p := pod("probed", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"stat", "/ready"}}}}
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "! stat /dead"}}}}
		p.Spec.Containers[0].StartupProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 3, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	})
	ready := func(want bool) func(v1.PodStatus) bool {
		return func(s v1.PodStatus) bool {
			return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Running != nil && s.ContainerStatuses[0].Ready == want &&
				s.ContainerStatuses[0].Started != nil && *s.ContainerStatuses[0].Started
		}
	}
	b.runner.Set(p)
	b.wait(p, "started and not ready", ready(false))
	b.run(p, "touch", "/ready")
	b.wait(p, "ready", ready(true))
	b.run(p, "touch", "/dead")
	c := b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	if c.LastTerminationState.Terminated == nil {
		b.t.Errorf("status: %+v", c)
	}
	b.event(p, "Unhealthy")
	b.remove(p)
	tcp := pod("tcp", sleeper, func(p *v1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 10, ProbeHandler: v1.ProbeHandler{
			TCPSocket: &v1.TCPSocketAction{Host: "127.0.0.1", Port: intstr.FromInt32(1)}}}
	})
	b.runner.Set(tcp)
	b.phase(tcp, v1.PodRunning)
	if b.last(tcp.UID).ContainerStatuses[0].Ready {
		b.t.Error("ready though nothing listens")
	}
	b.remove(tcp)
}

func limitedPod(b *bed) {
	p := pod("limits", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
			Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("32Mi")},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if b.runner.Cgroups.Unified() {
		b.t.Skip("reads cgroup v1 files; the v2 values have a unit test")
	}
	ref, _ := b.runner.Container(p.UID, "main")
	group := b.runner.Cgroups.PodPath(v1.PodQOSBurstable, string(p.UID))
	for _, dir := range []string{group, filepath.Join(group, ref.ID)} {
		for file, want := range map[string]string{"cpu/%/cpu.shares": "256", "cpu/%/cpu.cfs_quota_us": "50000", "memory/%/memory.limit_in_bytes": "33554432"} {
			data, err := os.ReadFile("/sys/fs/cgroup/" + strings.Replace(file, "%", dir, 1))
			if err != nil || strings.TrimSpace(string(data)) != want {
				b.t.Errorf("%s of %s is %q (%v), want %s", file, dir, data, err, want)
			}
		}
	}
	b.remove(p)
}

func securedPod(b *bed) {
	p := pod("secure", `touch /x || echo read-only; grep -E "CapEff|NoNewPrivs|Seccomp:" /proc/self/status; echo args; `+sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{
			ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false),
			Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
			SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.remove1(p, func(out string) {
		for _, want := range []string{"read-only", "CapEff:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(out, want) {
				b.t.Errorf("output lacks %q:\n%s", want, out)
			}
		}
	})
}

func execPod(b *bed) {
	p := pod("exec", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if out := b.run(p, "echo", "hi"); out != "hi\n" {
		b.t.Errorf("output %q", out)
	}
	ref, _ := b.runner.Container(p.UID, "main")
	for range 20 {
		out := &boundedBuffer{}
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		code, err := b.runner.Exec(ctx, ExecRequest{ID: ref.ID, Command: []string{"cat"}, In: strings.NewReader("input"), Out: out, Err: out})
		cancel()
		if code != 0 || err != nil || out.String() != "input" {
			b.t.Fatalf("cat: code %d, %v, %q", code, err, out.String())
		}
	}
	code, _, err := b.runner.execOutput(context.Background(), ref.ID, []string{"sh", "-c", "exit 9"}, waitLimit)
	if err != nil || code != 9 {
		b.t.Errorf("code %d, %v", code, err)
	}
	b.remove(p)
}

func removedPod(b *bed) {
	p := pod("forced", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.runner.Remove(p.UID)
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
}

func rejectedPod(b *bed) {
	p := pod("big", sleeper)
	reject := map[types.UID]bool{p.UID: true}
	admit := b.runner.Admit
	b.runner.Admit = func(p *v1.Pod) (string, string) {
		if reject[p.UID] {
			return "OutOfcpu", "too big"
		}
		return "", ""
	}
	defer func() { b.runner.Admit = admit }()
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	if st := b.last(p.UID); st.Reason != "OutOfcpu" || !strings.Contains(st.Message, "too big") {
		b.t.Errorf("status: %+v", st)
	}
	b.remove(p)
}

func lastWordsPod(b *bed) {
	p := pod("words", `echo goodbye > /dev/termination-log; exit 1`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name, second.Command = "logs", []string{"sh", "-c", "echo from the log; exit 1"}
		second.TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
		p.Spec.Containers = append(p.Spec.Containers, second)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	// The statuses are sorted by name.
	for i, want := range []string{"from the log\n", "goodbye\n"} {
		if got := b.last(p.UID).ContainerStatuses[i].State.Terminated.Message; got != want {
			b.t.Errorf("message %q, want %q", got, want)
		}
	}
	b.remove(p)
}

func sidecarPod(b *bed) {
	p := pod("sidecar", `exit 0`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		c := *p.Spec.Containers[0].DeepCopy()
		c.Name, c.RestartPolicy, c.Command = "side", ptr(v1.ContainerRestartPolicyAlways), []string{"sh", "-c", sleeper}
		p.Spec.InitContainers = []v1.Container{c}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodSucceeded)
	b.remove(p)
}

// TestVolumesAndRestarts has its own host: the daemon is restarted.
func TestVolumesAndRestarts(t *testing.T) {
	b := newBed(t)
	imageVolumePods(b)
	vanishedPod(b)
}
