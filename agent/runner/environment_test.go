package runner

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// environmentPod has variables of every source, and what the API gives it beside
// them: user, groups, names, arguments.
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

// configErrorPod waits for configuration that is not there, or is not allowed.
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
