package controllers

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/util/flowcontrol"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/bootstrap"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	"k8s.io/kubernetes/pkg/controller/cronjob"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/endpoint"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/endpointslicemirroring"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/podgc"
	"k8s.io/kubernetes/pkg/controller/replication"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/controller/statefulset"
	"k8s.io/kubernetes/pkg/controller/ttlafterfinished"

	v1 "k8s.io/api/core/v1"
)

const (
	// fewWorkers is enough for loops whose passes are short and rare; a pass
	// waits for the API server, not for a processor.
	fewWorkers = 2
	// rolloutWorkers is for the loops a user waits for.
	rolloutWorkers = 4
	// collectorWorkers is how many dependents of something deleted go at once; a
	// user waits for these too, and each takes three requests.
	collectorWorkers = 8
	// maxEndpointsPerSlice is upstream's default.
	maxEndpointsPerSlice = 100
	// endpointsBatch gathers changes of the legacy Endpoints, which nothing here
	// forwards by. EndpointSlices are written at once.
	endpointsBatch = time.Second
	// mirrorBatch and mirroredPerSubset are for Endpoints that users write.
	mirrorBatch       = 100 * time.Millisecond
	mirroredPerSubset = 1000
	// terminatedPods is upstream's default: finished pods are kept up to this.
	terminatedPods = 12500
	// failedDaemonBackoff and its limit are upstream's.
	failedDaemonBackoff      = time.Second
	failedDaemonBackoffLimit = 15 * time.Minute
	// kindsPeriod is how often the garbage collector and the quotas compare the
	// kinds they watch with those that exist. The comparison reads a cache.
	kindsPeriod = 5 * time.Second
	// quotaResync is upstream's default for counting all quotas again.
	quotaResync = 5 * time.Minute
)

// allLoops lists every controller.
func allLoops() []loop {
	return []loop{
		{"replicaset", replicaSetLoop},

		// A ReplicaSet's name is a hash of its pod template, so two leaders make
		// the same one; scaling writes absolute numbers under optimistic
		// concurrency, and the loser reads again.
		{"deployment", buildDeployment},
		// Two leaders may each put a pod on a node; the next pass keeps the
		// oldest and deletes the others.
		{"daemonset", buildDaemonSet},
		// Indexed pods in excess are deleted by the next pass; completions are
		// counted by pod uid, each once. A work item may run twice, as the Job
		// API allows at any time.
		{"job", buildJob},
		// A Job's name is made of the scheduled minute; the second create finds
		// it there.
		{"cronjob", buildCronJob},
		// Pods have fixed names, so there is one record per identity. On one
		// host that host decides what runs; before there are several, the voters
		// of design section 5 must grant each identity.
		{"statefulset", buildStatefulSet},
		// As ours before it had names of its own: pods in excess are deleted.
		{"replicationcontroller", buildReplicationController},

		// Slices are computed from the pods; a double is deleted by the next
		// pass, and readers merge what they see meanwhile.
		{"endpointslice", buildEndpointSlices},
		{"endpoints", buildEndpoints}, // one record of a fixed name per service
		{"endpointslicemirroring", buildMirroring},

		// Creating what is missing under a fixed name, or deleting what must go,
		// comes to the same done twice.
		{"serviceaccount", buildServiceAccounts},
		{"root-ca", buildRootCA},
		{"namespace", buildNamespaces},
		{"clusterrole-aggregation", buildClusterRoles},
		{"garbage-collector", buildCollector},
		{"pod-garbage-collector", buildPodCollector},
		{"ttl-after-finished", buildTTL},
		{"token-cleaner", buildTokenCleaner}, // deletes what has expired, by uid
		// Both write what they counted, under optimistic concurrency; whoever
		// counts last is right.
		{"resource-quota", buildQuota},
		{"disruption", buildDisruption},
		{"pvc-protection", buildClaimProtection},
		{"pv-protection", buildVolumeProtection},
		// A binding is written on the volume first and then on the claim, each
		// under optimistic concurrency: of two leaders that give two volumes to
		// one claim, one is refused the claim and takes its volume's mark back
		// (unbindVolume); of two that give one volume to two claims, one is
		// refused the volume. What two sides of a split did apart is merged to
		// one state per object; a claim whose volume then names another claim
		// is shown as Lost and never deleted.
		{"persistentvolume-binder", buildVolumeBinder},
		{"ephemeral-volume", buildEphemeralVolumes}, // a claim's name follows from its pod's and owner
	}
}

func buildDeployment(ctx context.Context, p *parts) (func(context.Context), error) {
	apps := p.informers.Apps().V1()
	c, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), p.informers.Core().V1().Pods(), p.client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, rolloutWorkers) }, nil
}

func buildDaemonSet(ctx context.Context, p *parts) (func(context.Context), error) {
	apps, core := p.informers.Apps().V1(), p.informers.Core().V1()
	c, err := daemon.NewDaemonSetsController(ctx, apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), p.client,
		flowcontrol.NewBackOff(failedDaemonBackoff, failedDaemonBackoffLimit))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildJob(ctx context.Context, p *parts) (func(context.Context), error) {
	// No Workload and PodGroup informers: gang scheduling is an alpha feature
	// that stays off.
	c, err := job.NewController(ctx, p.client, p.informers.Core().V1().Pods(), p.informers.Batch().V1().Jobs(), nil, nil)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, rolloutWorkers) }, nil
}

func buildCronJob(ctx context.Context, p *parts) (func(context.Context), error) {
	batch := p.informers.Batch().V1()
	c, err := cronjob.NewControllerV2(ctx, batch.Jobs(), batch.CronJobs(), p.client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildStatefulSet(ctx context.Context, p *parts) (func(context.Context), error) {
	apps, core := p.informers.Apps().V1(), p.informers.Core().V1()
	c := statefulset.NewStatefulSetController(ctx, core.Pods(), apps.StatefulSets(), core.PersistentVolumeClaims(), apps.ControllerRevisions(), p.client)
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildReplicationController(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c := replication.NewReplicationManager(ctx, core.Pods(), core.ReplicationControllers(), p.client, maxBurst)
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildEndpointSlices(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c := endpointslice.NewController(ctx, core.Pods(), core.Services(), core.Nodes(), p.informers.Discovery().V1().EndpointSlices(),
		maxEndpointsPerSlice, p.client, 0)
	return func(ctx context.Context) { c.Run(ctx, rolloutWorkers) }, nil
}

func buildEndpoints(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c := endpoint.NewEndpointController(ctx, core.Pods(), core.Services(), core.Endpoints(), p.client, endpointsBatch) //nolint:staticcheck // deprecated, but still in the conformance tests
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildMirroring(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c := endpointslicemirroring.NewController(ctx, core.Endpoints(), p.informers.Discovery().V1().EndpointSlices(), core.Services(),
		mirroredPerSubset, p.client, mirrorBatch)
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildServiceAccounts(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c, err := serviceaccount.NewServiceAccountsController(klog.FromContext(ctx), core.ServiceAccounts(), core.Namespaces(), p.client,
		serviceaccount.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

// buildRootCA watches only the config maps of the one name it publishes under.
func buildRootCA(ctx context.Context, p *parts) (func(context.Context), error) {
	byName := informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTransform(StripManagedFields),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, rootcacertpublisher.RootCACertConfigMapName).String()
		}))
	c, err := rootcacertpublisher.NewPublisher(byName.Core().V1().ConfigMaps(), p.informers.Core().V1().Namespaces(), p.client, p.rootCA)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		byName.Start(ctx.Done())
		c.Run(ctx, fewWorkers)
		byName.Shutdown()
	}, nil
}

func buildNamespaces(ctx context.Context, p *parts) (func(context.Context), error) {
	const noResync = 0
	c := namespace.NewNamespaceController(ctx, p.client, p.metadata, p.discovery.ServerPreferredNamespacedResources,
		p.informers.Core().V1().Namespaces(), noResync, v1.FinalizerKubernetes)
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildClusterRoles(_ context.Context, p *parts) (func(context.Context), error) {
	c := clusterroleaggregation.NewClusterRoleAggregation(p.informers.Rbac().V1().ClusterRoles(), p.client.RbacV1())
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func buildPodCollector(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c := podgc.NewPodGC(ctx, p.client, core.Pods(), core.Nodes(), terminatedPods)
	return c.Run, nil
}

func buildTTL(ctx context.Context, p *parts) (func(context.Context), error) {
	c := ttlafterfinished.New(ctx, p.informers.Batch().V1().Jobs(), p.client)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

// buildTokenCleaner watches join tokens alone, not all secrets of the cell.
func buildTokenCleaner(_ context.Context, p *parts) (func(context.Context), error) {
	const noResync = 0
	tokens := informers.NewSharedInformerFactoryWithOptions(p.client, noResync, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String()
		}))
	c, err := bootstrap.NewTokenCleaner(p.client, tokens.Core().V1().Secrets(), bootstrap.DefaultTokenCleanerOptions())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		tokens.Start(ctx.Done())
		defer tokens.Shutdown()
		c.Run(ctx)
	}, nil
}
