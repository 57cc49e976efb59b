package e2e

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// shape is one kind of pod that the churn makes.
type shape struct {
	name string
	make func(*corev1.PodSpec)
	// settled reports whether a pod of this shape is where it goes when nobody
	// disturbs it.
	settled func(*corev1.Pod) bool
}

// serves answers on port 8080 and ends when it is told to.
const serves = `trap 'exit 0' TERM; mkdir -p /tmp/w; echo ok > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; while :; do sleep 1000 & wait $!; done`

func alone(c corev1.Container) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) { s.Containers = []corev1.Container{filled(c)} }
}

// filled sets what nearly all containers of the churn have.
func filled(c corev1.Container) corev1.Container {
	if c.Name == "" {
		c.Name = "main"
	}
	if c.Image == "" {
		c.Image, c.ImagePullPolicy = busyboxImage, corev1.PullIfNotPresent
	}
	if c.Command == nil {
		c.Command = []string{"sh", "-c", serves}
	}
	return c
}

func script(text string) []string { return []string{"sh", "-c", text} }

func waitsFor(reasons ...string) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool { return waits(reasons...)(pod) }
}

func ended(phase corev1.PodPhase) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool { return pod.Status.Phase == phase }
}

func probe(h corev1.ProbeHandler, period int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: period, TimeoutSeconds: 5, FailureThreshold: 30}
}

// shapes are the pods of the churn: the good, the bad, and those in between.
func shapes() []shape {
	yes, root := true, int64(0)
	port := intstr.FromInt32(8080)
	get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/index.html", Port: port}}
	connect := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}}
	run := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	always := corev1.ContainerRestartPolicyAlways
	limits := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("200m")}
	// Little, so that all pods would fit if they were of this shape.
	requests := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Mi"), corev1.ResourceCPU: resource.MustParse("5m")}
	return []shape{
		{"plain", alone(corev1.Container{}), ready},
		{"probed", alone(corev1.Container{StartupProbe: probe(connect, 1), ReadinessProbe: probe(get, 1), LivenessProbe: probe(run, 10)}), ready},
		{"hooked", alone(corev1.Container{Lifecycle: &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
			PreStop:   &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}},
		}}), ready},
		{"deaf", alone(corev1.Container{Command: script("trap '' TERM; while :; do sleep 1; done")}), ready},
		{"limited", alone(corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}), ready},
		{"several", func(s *corev1.PodSpec) {
			s.ShareProcessNamespace = &yes
			s.Containers = []corev1.Container{filled(corev1.Container{Name: "a"}), filled(corev1.Container{Name: "b", Command: script("exec sleep 100000")})}
		}, ready},
		{"initialised", func(s *corev1.PodSpec) {
			alone(corev1.Container{})(s)
			s.InitContainers = []corev1.Container{
				filled(corev1.Container{Name: "first", Command: []string{"true"}}),
				filled(corev1.Container{Name: "side", RestartPolicy: &always, Command: script("trap 'exit 0' TERM; while :; do sleep 1; done")}),
				filled(corev1.Container{Name: "second", Command: []string{"true"}}),
			}
		}, ready},
		{"configured", func(s *corev1.PodSpec) {
			alone(corev1.Container{
				Env: []corev1.EnvVar{{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "churn"}, Key: "word"}}}},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "config", MountPath: "/config"}, {Name: "config", MountPath: "/one", SubPath: "word"},
					{Name: "secret", MountPath: "/secret"}, {Name: "memory", MountPath: "/memory"}, {Name: "disk", MountPath: "/disk", SubPath: "below"},
					{Name: "self", MountPath: "/self"},
				},
			})(s)
			s.Volumes = []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "churn"}}}},
				{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "churn"}}},
				{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
				{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "self", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				}}}},
			}
		}, ready},
		{"of-the-host", func(s *corev1.PodSpec) {
			alone(corev1.Container{Command: script("trap 'exit 0' TERM; while :; do sleep 1; done")})(s)
			s.HostNetwork, s.HostPID = true, true
		}, ready},
		{"careful", func(s *corev1.PodSpec) {
			group := int64(2000)
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &group, FSGroup: &group, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
			alone(corev1.Container{SecurityContext: &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				Command: script("trap 'exit 0' TERM; while :; do sleep 1; done")})(s)
		}, ready},
		{"mighty", alone(corev1.Container{SecurityContext: &corev1.SecurityContext{Privileged: &yes, RunAsUser: &root}}), ready},
		{"typed-to", func(s *corev1.PodSpec) {
			alone(corev1.Container{Stdin: true, TTY: true, Command: script("trap 'exit 0' TERM HUP; while :; do read word; sleep 1; done")})(s)
		}, ready},
		{"claiming", func(s *corev1.PodSpec) {
			alone(corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}})(s)
			s.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "churn"}}}}
		}, ready},
		{"done", func(s *corev1.PodSpec) {
			s.RestartPolicy = corev1.RestartPolicyNever
			alone(corev1.Container{Command: script("sleep 1; echo done")})(s)
		}, ended(corev1.PodSucceeded)},
		{"failed", func(s *corev1.PodSpec) {
			s.RestartPolicy = corev1.RestartPolicyNever
			alone(corev1.Container{Command: script("exit 3")})(s)
		}, ended(corev1.PodFailed)},
		{"crashing", alone(corev1.Container{Command: script("exit 3")}), waitsFor("CrashLoopBackOff")},
		{"commandless", alone(corev1.Container{Command: []string{"/no/such/thing"}}), waitsFor("CrashLoopBackOff", "RunContainerError", "CreateContainerError")},
		{"imageless", alone(corev1.Container{Image: "localhost:1/no/such:image", ImagePullPolicy: corev1.PullNever}), waitsFor("ErrImageNeverPull")},
		{"secretless", func(s *corev1.PodSpec) {
			alone(corev1.Container{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}}})(s)
		}, waitsFor("CreateContainerConfigError")},
		{"hasty", func(s *corev1.PodSpec) {
			deadline := int64(3)
			s.ActiveDeadlineSeconds = &deadline
			alone(corev1.Container{})(s)
		}, ended(corev1.PodFailed)},
	}
}

// podOfShape makes one; its shape is in a label.
func podOfShape(name string, s shape, chance *rand.Rand) *corev1.Pod {
	grace := int64(2 + chance.IntN(3)) // more than a hook sleeps
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"shape": s.name, "churn": fmt.Sprint(chance.IntN(3))}}}
	pod.Spec.TerminationGracePeriodSeconds = &grace
	s.make(&pod.Spec)
	return pod
}
