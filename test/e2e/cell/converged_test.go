package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "shoal/api/control/v1"
)

// converged is the convergence checker: it waits until the given peers, or all,
// lack nothing by their own word and serve the same objects of every type, byte
// for byte except for the resourceVersion, which is each peer's own.
func converged(t *testing.T, some ...*peer) time.Duration {
	t.Helper()
	if len(some) == 0 {
		some = all()
	}
	return eventually(t, "peers are equal", func() error {
		for _, p := range some {
			if err := p.lagsNot(t.Context(), some); err != nil {
				return err
			}
		}
		return sameObjects(t.Context(), some)
	})
}

// lagsNot fails while the peer lacks something, or knows one of the others to.
func (p *peer) lagsNot(ctx context.Context, some []*peer) error {
	status, err := p.status(ctx)
	if err != nil {
		return err
	}
	for _, q := range some {
		i := slices.IndexFunc(status.Peers, func(s v1.Peer) bool { return s.Name == q.name })
		switch {
		case i < 0:
			return fmt.Errorf("%s does not list %s", p.name, q.name)
		case status.Peers[i].State != v1.Alive:
			return fmt.Errorf("%s calls %s %s", p.name, q.name, status.Peers[i].State)
		case status.Peers[i].LagDeltas == nil || *status.Peers[i].LagDeltas != 0:
			return fmt.Errorf("%s says %s lags", p.name, q.name)
		}
	}
	return nil
}

// sameObjects compares what peers serve.
func sameObjects(ctx context.Context, some []*peer) error {
	types, err := some[0].types()
	if err != nil {
		return err
	}
	if len(types) < 30 {
		return fmt.Errorf("only %d types of objects are served", len(types))
	}
	served := make([]map[string]string, len(some))
	var group errgroup.Group
	for i, p := range some {
		group.Go(func() (err error) {
			served[i], err = p.everything(ctx, types)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, p := range some[1:] {
		if err := difference(some[0].name, served[0], p.name, served[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func difference(aName string, a map[string]string, bName string, b map[string]string) error {
	for key, object := range a {
		other, ok := b[key]
		switch {
		case !ok:
			return fmt.Errorf("%s has %s and %s has not", aName, key, bName)
		case other != object:
			return fmt.Errorf("%s differs:\n%s: %s\n%s: %s", key, aName, object, bName, other)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			return fmt.Errorf("%s has %s and %s has not", bName, key, aName)
		}
	}
	return nil
}

// types are all that can be listed and is kept.
func (p *peer) types() ([]schema.GroupVersionResource, error) {
	lists, err := p.kube.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var types []schema.GroupVersionResource
	for _, list := range lists {
		if strings.HasPrefix(list.GroupVersion, "metrics.k8s.io/") {
			continue // measured at the moment of the question, and kept nowhere
		}
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		if gv.Group == "metrics.k8s.io" {
			continue // measured when asked for, and kept nowhere
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "get") && r.Name != "componentstatuses" {
				types = append(types, gv.WithResource(r.Name))
			}
		}
	}
	return types, nil
}

// everything a peer serves, as text by type and name.
func (p *peer) everything(ctx context.Context, types []schema.GroupVersionResource) (map[string]string, error) {
	found := map[string]string{}
	for _, r := range types {
		list, err := p.objects.Resource(r).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s on %s: %w", r.Resource, p.name, err)
		}
		for _, object := range list.Items {
			unstructured.RemoveNestedField(object.Object, "metadata", "resourceVersion")
			text, err := json.Marshal(object.Object)
			if err != nil {
				return nil, err
			}
			found[r.GroupResource().String()+" "+object.GetNamespace()+"/"+object.GetName()] = string(text)
		}
	}
	return found, nil
}
