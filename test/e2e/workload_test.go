package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func container(pod *corev1.Pod) corev1.ContainerStatus {
	if len(pod.Status.ContainerStatuses) == 0 {
		return corev1.ContainerStatus{}
	}
	return pod.Status.ContainerStatuses[0]
}

func waits(reasons ...string) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool {
		waiting := container(pod).State.Waiting
		if waiting == nil {
			return false
		}
		for _, reason := range reasons {
			if waiting.Reason == reason {
				return true
			}
		}
		return false
	}
}

func pod(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: " + name + "}}\nspec:\n  terminationGracePeriodSeconds: 1\n" + spec
}

func TestCrashLoop(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("crasher", `
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sh, -c, "echo dying; exit 3"]}
`))
	crashed := podWhen(t, ns, "crasher", "backs off", func(pod *corev1.Pod) bool {
		return waits("CrashLoopBackOff")(pod) && container(pod).RestartCount >= 1
	})
	last := container(crashed).LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		t.Errorf("the last state is %+v", last)
	}
	mentions(t, kubectl(t, "logs", "--namespace", ns, "crasher"), "dying")
	mentions(t, kubectl(t, "get", "pods", "--namespace", ns), "CrashLoopBackOff")
	eventually(t, "event", func() error {
		events := kubectl(t, "get", "events", "--namespace", ns, "--output", "jsonpath={.items[*].reason}")
		if !strings.Contains(events, "BackOff") {
			return fmt.Errorf("the events are %s", events)
		}
		return nil
	})
}

// TestContainerKilled ends a container's process from outside: it must come
// back in the same pod, with the same address.
func TestContainerKilled(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, webDeployment(1))
	before := podsReady(t, ns, "app=web", 1)[0]
	killContainer(t, container(&before).ContainerID)
	after := podWhen(t, ns, before.Name, "restarts", func(pod *corev1.Pod) bool {
		return container(pod).RestartCount == 1 && ready(pod)
	})
	if last := container(after).LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("the last state is %+v", last)
	}
	if after.UID != before.UID || after.Status.PodIP != before.Status.PodIP || container(after).ContainerID == container(&before).ContainerID {
		t.Errorf("before %s %s, after %s %s", before.UID, before.Status.PodIP, after.UID, after.Status.PodIP)
	}
}

func TestOutOfMemory(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("eater", `
  restartPolicy: Never
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [dd, if=/dev/zero, of=/dev/null, bs=256M, count=4]
    resources: {limits: {memory: 32Mi}}
`))
	killed := podWhen(t, ns, "eater", "fails", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed })
	if state := container(killed).State.Terminated; state == nil || state.Reason != "OOMKilled" || state.ExitCode != 137 {
		t.Errorf("the state is %+v", state)
	}
}

// TestResourceLimits reads the limits back from inside the container.
func TestResourceLimits(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("limited", `
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [sleep, "3600"]
    resources: {requests: {cpu: 100m}, limits: {memory: 48Mi, cpu: 250m}}
`))
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/limited", "--timeout", "240s")
	limits := hostCgroupValues(t, ns, "limited")
	if limits.memory != "50331648" || limits.cpu != "0.25" {
		t.Errorf("the kernel's limits are %+v", limits)
	}
}

func TestConfigReachesContainers(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "create", "configmap", "settings", "--namespace", ns, "--from-literal", "color=blue")
	kubectl(t, "create", "secret", "generic", "keys", "--namespace", ns, "--from-literal", "password=s3cret")
	apply(t, ns, pod("config", `
  restartPolicy: Never
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: shared, emptyDir: {}}
  containers:
  - name: writer
    image: `+busyboxImage+`
    workingDir: /tmp
    command: [sh, -c]
    args: ["echo $COLOR $PASSWORD $(NAME) $PWD > /shared/env; stat -c %a /keys/..data/password > /shared/mode; nc -l -p 7000 -e cat /settings/color"]
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: NAME, value: expanded}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys}
    - {name: shared, mountPath: /shared}
  - name: reader
    image: `+busyboxImage+`
    command: [sh, -c, "until [ -s /shared/mode ]; do sleep 0.1; done; cat /shared/env /shared/mode; until echo | nc -w 1 127.0.0.1 7000; do sleep 0.1; done"]
    volumeMounts:
    - {name: shared, mountPath: /shared}
`))
	podWhen(t, ns, "config", "succeeds", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	mentions(t, kubectl(t, "logs", "--namespace", ns, "config", "--container", "reader"), "blue s3cret expanded /tmp", "400", "blue")
}

func TestUnknownImage(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("nowhere", `
  containers:
  - {name: main, image: "127.0.0.1:9/no/such:image"}
`))
	podWhen(t, ns, "nowhere", "cannot pull", waits("ErrImagePull", "ImagePullBackOff"))
	waiting := podWhen(t, ns, "nowhere", "backs off", waits("ImagePullBackOff"))
	mentions(t, container(waiting).State.Waiting.Message, "127.0.0.1:9/no/such:image")
	mentions(t, kubectl(t, "describe", "pod", "nowhere", "--namespace", ns), "Failed", "Pulling")
}

func TestUnschedulable(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("huge", `
  containers:
  - {name: main, image: `+busyboxImage+`, resources: {requests: {cpu: "4000"}}}
`))
	apply(t, ns, pod("elsewhere", `
  nodeSelector: {disk: none}
  containers:
  - {name: main, image: `+busyboxImage+`}
`))
	for name, reason := range map[string]string{"huge": "Insufficient cpu", "elsewhere": "node(s) didn't match"} {
		unplaced := podWhen(t, ns, name, "is refused", func(pod *corev1.Pod) bool {
			for _, condition := range pod.Status.Conditions {
				if condition.Type == corev1.PodScheduled && condition.Reason == "Unschedulable" {
					return strings.Contains(condition.Message, reason)
				}
			}
			return false
		})
		if unplaced.Spec.NodeName != "" {
			t.Errorf("%s is on %s", name, unplaced.Spec.NodeName)
		}
		eventually(t, "event", func() error {
			text := kubectl(t, "describe", "pod", name, "--namespace", ns)
			if !strings.Contains(text, "FailedScheduling") {
				return fmt.Errorf("describe prints:\n%s", text)
			}
			return nil
		})
	}
	kubectl(t, "label", "node", daemon.Name, "disk=none")
	defer kubectl(t, "label", "node", daemon.Name, "disk-")
	podWhen(t, ns, "elsewhere", "is placed", func(pod *corev1.Pod) bool { return pod.Spec.NodeName == daemon.Name })
}

func TestTaints(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "taint", "node", daemon.Name, "only=friends:NoSchedule")
	defer kubectl(t, "taint", "node", daemon.Name, "only-")
	apply(t, ns, pod("stranger", `
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}
`))
	apply(t, ns, pod("friend", `
  tolerations: [{key: only, value: friends, effect: NoSchedule}]
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}
`))
	podWhen(t, ns, "friend", "runs", ready)
	stranger := podWhen(t, ns, "stranger", "is refused", func(pod *corev1.Pod) bool { return len(pod.Status.Conditions) > 0 })
	mentions(t, stranger.Status.Conditions[0].Message, "taint")
}

func TestRollout(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, webDeployment(2))
	podsReady(t, ns, "app=web", 2)
	kubectl(t, "set", "env", "deployment/web", "--namespace", ns, "REVISION=2")
	kubectl(t, "rollout", "status", "deployment/web", "--namespace", ns, "--timeout", "240s")
	for _, pod := range podsReady(t, ns, "app=web", 2) {
		if len(pod.Spec.Containers[0].Env) != 1 {
			t.Errorf("pod %s is of the old revision", pod.Name)
		}
	}
	mentions(t, kubectl(t, "rollout", "history", "deployment/web", "--namespace", ns), "REVISION", "1", "2")
	kubectl(t, "rollout", "undo", "deployment/web", "--namespace", ns)
	kubectl(t, "rollout", "status", "deployment/web", "--namespace", ns, "--timeout", "240s")
	for _, pod := range podsReady(t, ns, "app=web", 2) {
		if len(pod.Spec.Containers[0].Env) != 0 {
			t.Errorf("pod %s is not of the first revision", pod.Name)
		}
	}
}

func TestJobAndDaemonSet(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "create", "job", "sum", "--namespace", ns, "--image", busyboxImage, "--", "sh", "-c", "echo $((6*7))")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Complete", "job/sum", "--timeout", "240s")
	mentions(t, kubectl(t, "logs", "--namespace", ns, "job/sum"), "42")
	apply(t, ns, `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}]
`)
	if pods := podsReady(t, ns, "app=everywhere", 1); pods[0].Spec.NodeName != daemon.Name {
		t.Errorf("the pod is on %s", pods[0].Spec.NodeName)
	}
}

// TestOwnedObjectsGo deletes an owner: the garbage collector takes the rest.
func TestOwnedObjectsGo(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, webDeployment(1))
	podsReady(t, ns, "app=web", 1)
	kubectl(t, "delete", "deployment", "web", "--namespace", ns, "--cascade=orphan")
	eventually(t, "orphaned ReplicaSet", func() error {
		sets, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
		if err == nil && (len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0) {
			err = fmt.Errorf("there are %d sets", len(sets.Items))
		}
		return err
	})
	kubectl(t, "delete", "replicaset", "--all", "--namespace", ns)
	podsReady(t, ns, "app=web", 0)
}

// TestServiceAccountToken uses the token a pod is given against the API.
func TestServiceAccountToken(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "create", "rolebinding", "view", "--namespace", ns, "--clusterrole", "view", "--serviceaccount", ns+":default")
	token := strings.TrimSpace(kubectl(t, "create", "token", "default", "--namespace", ns))
	if result := runKubectl(t, "", "--kubeconfig", tokenKubeconfig(t, token), "get", "pods", "--namespace", ns); result.Err != nil {
		t.Error(result.Err)
	}
	result := runKubectl(t, "", "--kubeconfig", tokenKubeconfig(t, token), "get", "secrets", "--namespace", ns)
	mentions(t, result.Stderr, "Forbidden", "system:serviceaccount:"+ns+":default")
}
