package api

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	admissionregistrationrest "k8s.io/kubernetes/pkg/registry/admissionregistration/rest"
	appsrest "k8s.io/kubernetes/pkg/registry/apps/rest"
	authenticationrest "k8s.io/kubernetes/pkg/registry/authentication/rest"
	authorizationrest "k8s.io/kubernetes/pkg/registry/authorization/rest"
	autoscalingrest "k8s.io/kubernetes/pkg/registry/autoscaling/rest"
	batchrest "k8s.io/kubernetes/pkg/registry/batch/rest"
	certificatesrest "k8s.io/kubernetes/pkg/registry/certificates/rest"
	coordinationrest "k8s.io/kubernetes/pkg/registry/coordination/rest"
	discoveryrest "k8s.io/kubernetes/pkg/registry/discovery/rest"
	eventsrest "k8s.io/kubernetes/pkg/registry/events/rest"
	flowcontrolrest "k8s.io/kubernetes/pkg/registry/flowcontrol/rest"
	networkingrest "k8s.io/kubernetes/pkg/registry/networking/rest"
	noderest "k8s.io/kubernetes/pkg/registry/node/rest"
	policyrest "k8s.io/kubernetes/pkg/registry/policy/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	resourcerest "k8s.io/kubernetes/pkg/registry/resource/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	storagerest "k8s.io/kubernetes/pkg/registry/storage/rest"
)

// groups lists the API groups this peer serves. Their order is the order of
// discovery, which decides whom an unqualified resource name means.
func groups(c controlplane.CompletedConfig, core *coreGroup, client kubernetes.Interface) []controlplaneapiserver.RESTStorageProvider {
	generic := c.ControlPlane.Generic
	authorizer := generic.Authorization.Authorizer
	return []controlplaneapiserver.RESTStorageProvider{
		core,
		authenticationrest.RESTStorageProvider{Authenticator: generic.Authentication.Authenticator, APIAudiences: generic.Authentication.APIAudiences},
		authorizationrest.RESTStorageProvider{Authorizer: authorizer, RuleResolver: generic.RuleResolver},
		autoscalingrest.RESTStorageProvider{},
		batchrest.RESTStorageProvider{},
		certificatesrest.RESTStorageProvider{Authorizer: authorizer},
		coordinationrest.RESTStorageProvider{},
		discoveryrest.StorageProvider{},
		networkingrest.RESTStorageProvider{},
		noderest.RESTStorageProvider{},
		policyrest.RESTStorageProvider{},
		rbacrest.RESTStorageProvider{Authorizer: authorizer},
		schedulingrest.RESTStorageProvider{},
		storagerest.RESTStorageProvider{},
		flowcontrolrest.RESTStorageProvider{InformerFactory: generic.SharedInformerFactory},
		appsrest.StorageProvider{},
		admissionregistrationrest.RESTStorageProvider{Authorizer: authorizer, DiscoveryClient: client.Discovery()},
		eventsrest.RESTStorageProvider{TTL: c.ControlPlane.EventTTL},
		resourcerest.RESTStorageProvider{NamespaceClient: client.CoreV1().Namespaces(), Authorizer: authorizer},
	}
}

// priorities orders groups and versions in aggregated discovery. The generic
// groups' priorities are upstream's; these are the numbers Kubernetes gives to
// the rest, which clients rely on to resolve short names.
func priorities() map[schema.GroupVersion]controlplaneapiserver.APIServicePriority {
	byVersion := controlplaneapiserver.DefaultGenericAPIServicePriorities()
	for _, p := range []struct {
		group, version string
		group32        int32
		version32      int32
	}{
		{"apps", "v1", 17800, 15},
		{"autoscaling", "v1", 17500, 15},
		{"autoscaling", "v2", 17500, 30},
		{"batch", "v1", 17400, 15},
		{"networking.k8s.io", "v1", 17200, 15},
		{"policy", "v1", 17100, 15},
		{"storage.k8s.io", "v1", 16800, 15},
		{"scheduling.k8s.io", "v1", 16600, 15},
		{"node.k8s.io", "v1", 16300, 15},
		{"resource.k8s.io", "v1", 16200, 21},
	} {
		byVersion[schema.GroupVersion{Group: p.group, Version: p.version}] = controlplaneapiserver.APIServicePriority{Group: p.group32, Version: p.version32}
	}
	return byVersion
}
