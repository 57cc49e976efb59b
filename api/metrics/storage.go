package metrics

import (
	"context"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/metrics/pkg/apis/metrics"
)

// nodeStorage answers for nodes.metrics.k8s.io.
type nodeStorage struct{ agents *agents }

// podStorage answers for pods.metrics.k8s.io.
type podStorage struct{ agents *agents }

var (
	_ rest.Lister               = nodeStorage{}
	_ rest.Getter               = nodeStorage{}
	_ rest.KindProvider         = nodeStorage{}
	_ rest.Scoper               = nodeStorage{}
	_ rest.SingularNameProvider = nodeStorage{}
	_ rest.Lister               = podStorage{}
	_ rest.Getter               = podStorage{}
	_ rest.KindProvider         = podStorage{}
	_ rest.Scoper               = podStorage{}
	_ rest.SingularNameProvider = podStorage{}
)

// New implements rest.Storage.
func (nodeStorage) New() runtime.Object { return &metrics.NodeMetrics{} }

// NewList implements rest.Lister.
func (nodeStorage) NewList() runtime.Object { return &metrics.NodeMetricsList{} }

// Destroy implements rest.Storage.
func (nodeStorage) Destroy() {}

// Kind implements rest.KindProvider.
func (nodeStorage) Kind() string { return "NodeMetrics" }

// NamespaceScoped implements rest.Scoper.
func (nodeStorage) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (nodeStorage) GetSingularName() string { return "" }

// Get tells of one node.
func (s nodeStorage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := s.agents.Nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(metrics.Resource("nodes"), name)
	}
	if err != nil {
		return nil, err
	}
	for _, u := range s.agents.all(ctx, []*v1.Node{node}) {
		return nodeMetrics(u, node), nil
	}
	return nil, notTold(metrics.Resource("nodes").String(), name)
}

// List tells of the nodes that a selector takes.
func (s nodeStorage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	wanted := selectorOf(options)
	all, err := s.agents.Nodes.List(wanted.labels)
	if err != nil {
		return nil, err
	}
	byName := map[string]*v1.Node{}
	var nodes []*v1.Node
	for _, n := range all {
		if wanted.takes(n.Name, "") {
			byName[n.Name], nodes = n, append(nodes, n)
		}
	}
	list := &metrics.NodeMetricsList{}
	for _, u := range s.agents.all(ctx, nodes) {
		if node := byName[u.Node.Name]; node != nil {
			list.Items = append(list.Items, *nodeMetrics(u, node))
		}
	}
	sort.Slice(list.Items, func(i, j int) bool { return list.Items[i].Name < list.Items[j].Name })
	return list, nil
}

// ConvertToTable implements rest.TableConvertor.
func (nodeStorage) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object)
}

// New implements rest.Storage.
func (podStorage) New() runtime.Object { return &metrics.PodMetrics{} }

// NewList implements rest.Lister.
func (podStorage) NewList() runtime.Object { return &metrics.PodMetricsList{} }

// Destroy implements rest.Storage.
func (podStorage) Destroy() {}

// Kind implements rest.KindProvider.
func (podStorage) Kind() string { return "PodMetrics" }

// NamespaceScoped implements rest.Scoper.
func (podStorage) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (podStorage) GetSingularName() string { return "" }

// Get tells of one pod.
func (s podStorage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := request.NamespaceValue(ctx)
	pod, err := s.agents.Pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(metrics.Resource("pods"), name)
	}
	if err != nil {
		return nil, err
	}
	if node, err := s.agents.Nodes.Get(pod.Spec.NodeName); err == nil {
		for _, u := range s.agents.all(ctx, []*v1.Node{node}) {
			for i := range u.Pods {
				if u.Pods[i].Namespace == namespace && u.Pods[i].Name == name {
					return podMetrics(u, i), nil
				}
			}
		}
	}
	return nil, notTold(metrics.Resource("pods").String(), name)
}

// List tells of the pods that a namespace and a selector take.
func (s podStorage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	wanted := selectorOf(options)
	namespace := request.NamespaceValue(ctx)
	nodes, err := s.agents.Nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	list := &metrics.PodMetricsList{}
	for _, u := range s.agents.all(ctx, nodes) {
		for i := range u.Pods {
			p := &u.Pods[i]
			if (namespace == "" || p.Namespace == namespace) && wanted.labels.Matches(labels.Set(p.Labels)) && wanted.takes(p.Name, p.Namespace) {
				list.Items = append(list.Items, *podMetrics(u, i))
			}
		}
	}
	sort.Slice(list.Items, func(i, j int) bool {
		a, b := &list.Items[i], &list.Items[j]
		return a.Namespace < b.Namespace || a.Namespace == b.Namespace && a.Name < b.Name
	})
	return list, nil
}

// ConvertToTable implements rest.TableConvertor.
func (podStorage) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object)
}

// notTold is metrics-server's answer when there are no readings: not found,
// which autoscalers and kubectl take as "not yet".
func notTold(resource, name string) error {
	err := apierrors.NewNotFound(metrics.Resource(resource), name)
	err.ErrStatus.Message = resource + " " + `"` + name + `" has no readings yet; a pod has them some seconds after its start, a node while its host answers`
	return err
}

func nodeMetrics(u *usage, node *v1.Node) *metrics.NodeMetrics {
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.NewTime(time.Now())},
		Timestamp:  u.Node.Timestamp, Window: u.Node.Window, Usage: u.Node.Usage,
	}
}

func podMetrics(u *usage, i int) *metrics.PodMetrics {
	p := &u.Pods[i]
	out := &metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, CreationTimestamp: metav1.NewTime(time.Now())},
		Timestamp:  p.Timestamp, Window: p.Window,
	}
	for _, c := range p.Containers {
		out.Containers = append(out.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: c.Usage})
	}
	return out
}

// selector is what a list asks for.
type selector struct {
	labels labels.Selector
	fields fields.Selector
}

func selectorOf(o *internalversion.ListOptions) selector {
	s := selector{labels.Everything(), fields.Everything()}
	if o != nil && o.LabelSelector != nil {
		s.labels = o.LabelSelector
	}
	if o != nil && o.FieldSelector != nil {
		s.fields = o.FieldSelector
	}
	return s
}

func (s selector) takes(name, namespace string) bool {
	return s.fields.Matches(fields.Set{metav1.ObjectNameField: name, "metadata.namespace": namespace})
}

// table is what kubectl get shows.
func table(object runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "CPU", Type: "string"}, {Name: "Memory", Type: "string"}, {Name: "Window", Type: "string"},
	}}
	row := func(object runtime.Object, name string, used v1.ResourceList, window metav1.Duration) {
		out.Rows = append(out.Rows, metav1.TableRow{
			Cells:  []any{name, used.Cpu().String(), used.Memory().String(), window.Duration.String()},
			Object: runtime.RawExtension{Object: object},
		})
	}
	each := func(object runtime.Object) error {
		switch o := object.(type) {
		case *metrics.NodeMetrics:
			row(o, o.Name, o.Usage, o.Window)
		case *metrics.PodMetrics:
			row(o, o.Name, sum(o.Containers), o.Window)
		}
		return nil
	}
	if meta.IsListType(object) {
		if list, err := meta.ListAccessor(object); err == nil {
			out.ResourceVersion = list.GetResourceVersion()
		}
		return out, meta.EachListItem(object, each)
	}
	return out, each(object)
}

func sum(containers []metrics.ContainerMetrics) v1.ResourceList {
	out := v1.ResourceList{}
	for _, c := range containers {
		for name, q := range c.Usage {
			total := out[name]
			total.Add(q)
			out[name] = total
		}
	}
	return out
}
