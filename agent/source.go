package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// source reads the objects that pods refer to.
type source struct {
	kube     kubernetes.Interface
	services cache.Store
	informer cache.Controller
}

func newSource(kube kubernetes.Interface) *source {
	s := &source{kube: kube}
	lw := cache.NewListWatchFromClient(kube.CoreV1().RESTClient(), "services", v1.NamespaceAll, fields.Everything())
	s.services, s.informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Service{}, Transform: withoutManagedFields, Handler: cache.ResourceEventHandlerFuncs{},
	})
	return s
}

// withoutManagedFields is a transform for informers: the agent never reads who
// wrote a field, and that is half of what a pod takes in memory.
func withoutManagedFields(obj any) (any, error) {
	if object, ok := obj.(metav1.Object); ok {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

func (s *source) run(ctx context.Context) error {
	s.informer.RunWithContext(ctx)
	return nil
}

// ConfigMap reads a config map.
func (s *source) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	cm, err := whenRelated(ctx, func() (*v1.ConfigMap, error) {
		return s.kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	return cm, missing(err, "configmap", name)
}

// Secret reads a secret.
func (s *source) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	secret, err := whenRelated(ctx, func() (*v1.Secret, error) {
		return s.kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	return secret, missing(err, "secret", name)
}

// missing says that an object is not there as the kubelet does, which names its
// kind and not the API's resource.
func missing(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(v1.Resource(kind), name)
	}
	return err
}

// Token asks for a service account's token.
func (s *source) Token(ctx context.Context, namespace, serviceAccount string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	return whenRelated(ctx, func() (*authv1.TokenRequest, error) {
		return s.kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount, req, metav1.CreateOptions{})
	})
}

// RuntimeHandler reads the handler that a RuntimeClass names.
func (s *source) RuntimeHandler(ctx context.Context, class string) (string, error) {
	c, err := s.kube.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return c.Handler, nil
}

const (
	// relatedWithin is how long the Node authorizer and NodeRestriction, which
	// hear of a pod from informers of their own, may be behind this agent. Beyond it a refusal is
	// meant, and the runner's own retries go on.
	relatedWithin = time.Second
	relatedPoll   = 5 * time.Millisecond
)

// whenRelated reads what belongs to a pod of this host. Right after the pod was
// bound the authorizer may not know of it yet, and NodeRestriction, which looks
// for the pod of a token, finds none.
func whenRelated[T any](ctx context.Context, read func() (T, error)) (T, error) {
	for deadline := time.Now().Add(relatedWithin); ; {
		value, err := read()
		if !apierrors.IsForbidden(err) && !noPod(err) || time.Now().After(deadline) {
			return value, err
		}
		select {
		case <-ctx.Done():
			return value, err
		case <-time.After(relatedPoll):
		}
	}
}

// noPod reports whether the API says that there is no such pod. Its storage
// names the resource, "pods", and NodeRestriction's lister the kind, "pod".
func noPod(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && (details.Kind == "pods" || details.Kind == "pod")
}

// ServiceEnv is the classic discovery environment: every service of the
// namespace when links is set, and always the API's own.
func (s *source) ServiceEnv(ctx context.Context, namespace string, links bool) (map[string]string, error) {
	if !cache.WaitForCacheSync(ctx.Done(), s.informer.HasSynced) {
		return nil, fmt.Errorf("services are not known yet: %w", ctx.Err())
	}
	env := map[string]string{}
	for _, obj := range s.services.List() {
		svc := obj.(*v1.Service)
		api := svc.Namespace == v1.NamespaceDefault && svc.Name == "kubernetes"
		if api || (links && svc.Namespace == namespace) {
			serviceEnv(svc, env)
		}
	}
	return env, nil
}

// serviceEnv adds one service's variables, in Docker's link form too.
func serviceEnv(svc *v1.Service, env map[string]string) {
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == v1.ClusterIPNone || len(svc.Spec.Ports) == 0 {
		return
	}
	prefix := envName(svc.Name)
	first := svc.Spec.Ports[0]
	env[prefix+"_SERVICE_HOST"] = svc.Spec.ClusterIP
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(first.Port))
	for _, p := range svc.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+envName(p.Name)] = port
		}
		proto := strings.ToLower(string(p.Protocol))
		url := proto + "://" + net.JoinHostPort(svc.Spec.ClusterIP, port)
		if p == first {
			env[prefix+"_PORT"] = url
		}
		base := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		env[base] = url
		env[base+"_PROTO"] = proto
		env[base+"_PORT"] = port
		env[base+"_ADDR"] = svc.Spec.ClusterIP
	}
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
