package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	registration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/metrics/pkg/apis/metrics"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// scheme has this group alone, so that its kinds are in nobody else's way.
var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() {
	utilruntime.Must(metrics.AddToScheme(scheme))
	utilruntime.Must(v1beta1.AddToScheme(scheme))
	utilruntime.Must(scheme.SetVersionPriority(v1beta1.SchemeGroupVersion))
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
}

// Group is the API group to install. Only v1beta1 is served, as metrics-server
// does: where a user's own server takes over, no other version of ours may
// stand beside it.
func Group(o Options) *genericapiserver.APIGroupInfo {
	info := genericapiserver.NewDefaultAPIGroupInfo(metrics.GroupName, scheme, metav1.ParameterCodec, codecs)
	asked := newAgents(o)
	info.VersionedResourcesStorageMap[v1beta1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"nodes": nodeStorage{asked}, "pods": podStorage{asked},
	}
	return &info
}

const (
	serviceName = "v1beta1.metrics.k8s.io"
	// priority is the one metrics-server registers with, last of all groups:
	// `kubectl get pods` means the core group's.
	priority = 100
	// readerRole is metrics-server's too.
	readerRole = "system:aggregated-metrics-reader"
	retry      = time.Second
)

// Register keeps the group known to the aggregator until ctx ends: as this
// server's own, unless somebody has registered another for it. Upstream's own
// registration of built-in groups is no good for that: it takes the group back
// at every start.
func Register(ctx context.Context, services aggregator.APIServicesGetter, informer cache.SharedIndexInformer, client kubernetes.Interface, log *slog.Logger) {
	missing := make(chan struct{}, 1)
	missing <- struct{}{}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if s, ok := obj.(*registration.APIService); ok && s.Name == serviceName {
			select {
			case missing <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		log.Error("metrics.k8s.io is not watched", "error", err)
		return
	}
	defer func() { _ = informer.RemoveEventHandler(handler) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-missing:
		}
		for err := register(ctx, services, client); err != nil; err = register(ctx, services, client) {
			if ctx.Err() != nil {
				return
			}
			log.Warn("metrics.k8s.io cannot be registered yet", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retry):
			}
		}
	}
}

func register(ctx context.Context, services aggregator.APIServicesGetter, client kubernetes.Interface) error {
	_, err := services.APIServices().Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.APIServices().Create(ctx, &registration.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName},
			Spec: registration.APIServiceSpec{
				Group: metrics.GroupName, Version: v1beta1.SchemeGroupVersion.Version,
				GroupPriorityMinimum: priority, VersionPriority: priority,
			},
		}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("register %s: %w", serviceName, err)
	}
	roles := client.RbacV1().ClusterRoles()
	_, err = roles.Get(ctx, readerRole, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = roles.Create(ctx, role(), metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make cluster role %s: %w", readerRole, err)
	}
	return nil
}

// role lets everybody who may view a namespace see what its pods use.
func role() *rbacv1.ClusterRole {
	aggregate := map[string]string{}
	for _, to := range []string{"view", "edit", "admin"} {
		aggregate["rbac.authorization.k8s.io/aggregate-to-"+to] = "true"
	}
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: readerRole, Labels: aggregate},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{metrics.GroupName}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}},
	}
}
