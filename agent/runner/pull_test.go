package runner

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/image"
	"shoal/agent/internal/testbed"
)

// pullPods pull from a private registry, as policies and pull secrets say.
func pullPods(b *bed) {
	t := b.t
	reg := testbed.StartRegistry(t, false)
	reg.Push(t, "x/y:v1", "amd64", testbed.Layer(t))
	reg.Push(t, "x/arm:v1", "arm64", []byte("never read"))
	reg.Password = "let-me-in"
	secret := func(name, password string) {
		b.objects.secrets["test/"+name] = &v1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: name, UID: types.UID("uid-" + name)},
			Type:       v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: testbed.DockerConfig(reg.Host, "u", password)},
		}
	}
	secret("good", "let-me-in")
	secret("bad", "wrong-guess")
	ref := reg.Host + "/x/y:v1"
	with := func(policy v1.PullPolicy, secrets ...string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = ref, policy
			for _, s := range secrets {
				p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s})
			}
		}
	}

	first := pod("first", sleeper, with(v1.PullIfNotPresent, "absent", "good"))
	b.runner.Set(first)
	b.phase(first, v1.PodRunning)
	if text := b.event(first, "FailedToRetrieveImagePullSecret"); !strings.Contains(text, "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not succeed.") {
		t.Errorf("of a missing secret: %s", text)
	}
	if text := b.event(first, "Pulled"); !strings.Contains(text, "Successfully pulled image \""+ref+"\" in ") || !strings.Contains(text, "including waiting). Image size: ") {
		t.Errorf("of the pull: %s", text)
	}
	b.atContainer(first, "Pulling", "Pulled")

	// The image is here now, and private.
	same := pod("same", sleeper, with(v1.PullNever, "good"))
	without := pod("without", sleeper, with(v1.PullNever))
	wrong := pod("wrong", sleeper, with(v1.PullIfNotPresent, "bad"))
	arm := pod("arm", sleeper, func(p *v1.Pod) {
		with(v1.PullIfNotPresent, "good")(p)
		p.Spec.Containers[0].Image = reg.Host + "/x/arm:v1"
	})
	badName := pod("badname", sleeper, func(p *v1.Pod) { p.Spec.Containers[0].Image = "Not/Valid:::" })
	before := reg.Heads("v1")
	for _, p := range []*v1.Pod{same, without, wrong, arm, badName} {
		b.runner.Set(p)
	}
	b.phase(same, v1.PodRunning)
	if text := b.event(same, "Pulled"); !strings.Contains(text, "already present on machine and can be accessed by the pod") {
		t.Errorf("of an image that is here: %s", text)
	}
	b.atContainer(same, "Pulled")
	b.container(without, "main", "no rights", waitingFor("ErrImageNeverPull"))
	c := b.container(wrong, "main", "wrong rights", waitingFor("ImagePullBackOff"))
	if m := c.State.Waiting.Message; !strings.HasPrefix(m, `Back-off pulling image "`+ref+`": ErrImagePull: failed to pull and unpack image "`+ref+`"`) || strings.Contains(m, "wrong-guess") {
		t.Errorf("of wrong rights: %s", m)
	}
	c = b.container(arm, "main", "other platform", waitingFor("ImagePullBackOff"))
	if m := c.State.Waiting.Message; !strings.Contains(m, "made for linux/arm64, and this host is linux/amd64") {
		t.Errorf("of another platform: %s", m)
	}
	b.container(badName, "main", "bad name", waitingFor("InvalidImageName"))
	if heads := reg.Heads("v1") - before; heads != 2 { // wrong and arm; same has proved it before
		t.Logf("manifests were asked for %d times", heads)
	}

	// Always asks the registry, and fetches nothing that is here.
	always := pod("always", sleeper, with(v1.PullAlways, "good"))
	before = reg.Heads("v1")
	b.runner.Set(always)
	b.phase(always, v1.PodRunning)
	if reg.Heads("v1") == before {
		t.Error("policy Always did not ask the registry")
	}
	b.remove(first, same, without, wrong, arm, badName, always)
}

func TestPullWord(t *testing.T) {
	for want, p := range map[string]image.Progress{
		`Pulling image "x": pulling, 3 MiB`:                                          {Status: "pulling", Bytes: 3 << 20},
		`Pulling image "x": pulling, 3 MiB of 9 MiB, 2 MiB of them from other hosts`: {Status: "pulling", Bytes: 3 << 20, Total: 9 << 20, PeerBytes: 2 << 20},
	} {
		if got := pullWord("x", p); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// imagePods have images that are nowhere: one may not be pulled, one cannot.
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
