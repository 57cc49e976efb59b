package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	apiserverstorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"shoal/api/issuer"
	"shoal/store"
)

// pair is two peers of a cell that hear of each other's writes when told to.
type pair struct {
	a, b *setup
	// cut: nobody can be asked.
	cut bool
}

const tagA, tagB = 7, 9

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	peer := func(tag store.Tag) *setup {
		s := newSetup(t, withClockVersions(), func(config *storagebackend.ConfigForResource, o *store.Options) {
			config.Prefix, o.Tag = "/registry", tag
		})
		s.cell = Cell{Tag: tag, Peers: issuer.NewAsker(p)}
		return s
	}
	p.a, p.b = peer(tagA), peer(tagB)
	return p
}

// PeerOf and Request stand for the gossip between the two.
func (p *pair) PeerOf(tag store.Tag) (string, bool) {
	return map[store.Tag]string{tagA: "a", tagB: "b"}[tag], tag == tagA || tag == tagB
}

func (p *pair) Request(ctx context.Context, peer, method string, payload []byte) ([]byte, error) {
	if p.cut {
		return nil, errors.New("no link")
	}
	db := map[string]*store.DB{"a": p.a.db, "b": p.b.db}[peer]
	handler := map[string]issuer.Handler{issuer.VectorMethod: issuer.Vector(db), issuer.DigestMethod: issuer.Digest(db)}[method]
	return handler(ctx, "x", payload)
}

// carry brings what from has written to to.
func carry(t *testing.T, from, to *setup) {
	t.Helper()
	want := to.db.Vector().Missing(from.db.Vector())
	deltas, _, err := from.db.Deltas(want, 1<<20)
	if err == nil {
		err = to.db.Merge(t.Context(), deltas)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func get(s *setup, name, version string) (*example.Pod, error) {
	out := &example.Pod{}
	return out, s.Get(s.ctx, "/pods/ns/"+name, apiserverstorage.GetOptions{ResourceVersion: version}, out)
}

func listFrom(s *setup, version string, match metav1.ResourceVersionMatch) (*example.PodList, error) {
	opts := everything()
	opts.ResourceVersion, opts.ResourceVersionMatch = version, match
	out := &example.PodList{}
	return out, s.GetList(s.ctx, "/pods/", opts, out)
}

// first returns a watch's first event.
func first(t *testing.T, s *setup, opts apiserverstorage.ListOptions) watch.Event {
	t.Helper()
	w, err := s.Watch(s.ctx, "/pods/", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	select {
	case e := <-w.ResultChan():
		return e
	case <-t.Context().Done():
		t.Fatal("no event")
	}
	return watch.Event{}
}

func isExpired(e watch.Event) bool {
	status, ok := e.Object.(*metav1.Status)
	return e.Type == watch.Error && ok && status.Reason == metav1.StatusReasonExpired
}

func TestForeignVersionHasNoHistory(t *testing.T) {
	p := newPair(t)
	made := p.a.create(t, "x")
	carry(t, p.a, p.b)
	opts := everything()
	opts.ResourceVersion = made.ResourceVersion
	if e := first(t, p.b, opts); !isExpired(e) {
		t.Errorf("watch from a foreign version began with %+v, want 410", e)
	}
	if _, err := listFrom(p.b, made.ResourceVersion, metav1.ResourceVersionMatchExact); !apierrors.IsResourceExpired(err) {
		t.Errorf("exact list of a foreign version: %v, want 410", err)
	}
	own := everything()
	own.Predicate.Limit = 1
	p.a.create(t, "y")
	carry(t, p.a, p.b)
	page := &example.PodList{}
	if err := p.a.GetList(p.a.ctx, "/pods/", own, page); err != nil || page.Continue == "" {
		t.Fatalf("first page: %v, continue %q", err, page.Continue)
	}
	own.Predicate.Continue = page.Continue
	err := p.b.GetList(p.b.ctx, "/pods/", own, &example.PodList{})
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsResourceExpired(err) || status.ErrStatus.Continue == "" {
		t.Fatalf("a foreign page: %v, want 410 with a token to go on with", err)
	}
	own.Predicate.Continue = status.ErrStatus.Continue
	rest := &example.PodList{}
	if err := p.b.GetList(p.b.ctx, "/pods/", own, rest); err != nil || len(rest.Items) != 1 || rest.Items[0].Name != "y" {
		t.Errorf("going on: %v, %d items, want y", err, len(rest.Items))
	}
}

func TestNotOlderThanForeignVersion(t *testing.T) {
	p := newPair(t)
	made := p.a.create(t, "x")
	initial := everything()
	yes := true
	initial.SendInitialEvents, initial.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
	initial.Predicate.AllowWatchBookmarks, initial.ResourceVersion = true, made.ResourceVersion

	// Nothing has come over: too early.
	if _, err := get(p.b, "x", made.ResourceVersion); !apiserverstorage.IsTooLargeResourceVersion(err) {
		t.Errorf("get: %v, want too large", err)
	}
	if _, err := listFrom(p.b, made.ResourceVersion, ""); !apiserverstorage.IsTooLargeResourceVersion(err) {
		t.Errorf("list: %v, want too large", err)
	}
	if e := first(t, p.b, initial); e.Type != watch.Error || isExpired(e) {
		t.Errorf("watch-list began with %+v, want a timeout", e)
	}

	// It comes while the request waits, which a busy host may be too slow for.
	var err error
	for try := range 20 {
		waited := make(chan error, 1)
		go func() {
			_, err := get(p.b, "x", made.ResourceVersion)
			waited <- err
		}()
		carry(t, p.a, p.b)
		if err = <-waited; err == nil {
			break
		}
		made = p.a.label(t, "x", fmt.Sprint("try", try))
		initial.ResourceVersion = made.ResourceVersion
	}
	if err != nil {
		t.Errorf("get while it comes: %v", err)
	}
	if list, err := listFrom(p.b, made.ResourceVersion, metav1.ResourceVersionMatchNotOlderThan); err != nil || len(list.Items) != 1 {
		t.Errorf("list after it came: %v", err)
	}
	if e := first(t, p.b, initial); e.Type != watch.Added {
		t.Errorf("watch-list began with %+v, want the pod", e)
	}

	// The issuer cannot be asked about anything newer, what was asked once is
	// known.
	p.cut = true
	if _, err := get(p.b, "x", made.ResourceVersion); err != nil {
		t.Errorf("get of a version reached before: %v", err)
	}
	newer := p.a.label(t, "x", "1")
	carry(t, p.a, p.b)
	if _, err := get(p.b, "x", newer.ResourceVersion); !apiserverstorage.IsTooLargeResourceVersion(err) {
		t.Errorf("get with the issuer away: %v, want too large", err)
	}
}

// update is what the registry does for a PUT of sent: it compares versions by
// the storage's versioner.
func update(s *setup, sent *example.Pod) (*example.Pod, error) {
	out := &example.Pod{}
	err := s.GuaranteedUpdate(s.ctx, "/pods/ns/"+sent.Name, out, false, nil, apiserverstorage.SimpleUpdate(
		func(existing runtime.Object) (runtime.Object, error) {
			obj := sent.DeepCopy()
			stored, err := s.Versioner().ObjectResourceVersion(existing)
			if err != nil {
				return nil, err
			}
			given, err := s.Versioner().ObjectResourceVersion(obj)
			if err != nil {
				return nil, err
			}
			if stored != given {
				return nil, apierrors.NewConflict(example.Resource("pods"), sent.Name, errors.New("version"))
			}
			if now := existing.(*example.Pod).ResourceVersion; obj.ResourceVersion != now {
				return nil, errors.New("the object kept version " + obj.ResourceVersion + " beside " + now)
			}
			return obj, nil
		}), nil)
	return out, err
}

func TestUpdateWithForeignVersion(t *testing.T) {
	p := newPair(t)
	made := p.a.create(t, "x")
	carry(t, p.a, p.b)

	edit := made.DeepCopy()
	edit.Labels = map[string]string{"by": "b"}
	updated, err := update(p.b, edit)
	if err != nil {
		t.Fatalf("update by a foreign version of the same state: %v", err)
	}
	if updated.Labels["by"] != "b" || updated.ResourceVersion == made.ResourceVersion {
		t.Errorf("updated to %+v", updated.ObjectMeta)
	}
	// The state it stands for is not ours any more.
	if _, err := update(p.b, edit); !apierrors.IsConflict(err) {
		t.Errorf("second update by the same version: %v, want 409", err)
	}
	// A's own version of what it got from B.
	carry(t, p.b, p.a)
	atA, err := get(p.a, "x", "")
	if err != nil || atA.ResourceVersion == updated.ResourceVersion {
		t.Fatalf("read at a: %v, version %s", err, atA.ResourceVersion)
	}
	back := atA.DeepCopy()
	back.Labels["by"] = "b again"
	if _, err := update(p.b, back); err != nil {
		t.Errorf("update by a's version of b's write: %v", err)
	}
	// The issuer cannot be asked.
	carry(t, p.b, p.a)
	if atA, err = get(p.a, "x", ""); err != nil {
		t.Fatal(err)
	}
	p.cut = true
	if _, err := update(p.b, atA); !apierrors.IsConflict(err) {
		t.Errorf("update with the issuer away: %v, want 409", err)
	}
}

// TestForeignVersionOfAnOldWrite: an object seldom changes for as long as
// history is kept.
func TestForeignVersionOfAnOldWrite(t *testing.T) {
	p := newPair(t)
	made := p.a.create(t, "x")
	carry(t, p.a, p.b)
	p.a.create(t, "y")
	if err := p.a.db.Compact(p.a.db.Version()); err != nil {
		t.Fatal(err)
	}
	if _, err := update(p.b, made); err != nil {
		t.Errorf("update by a version from before the window: %v", err)
	}
}

func TestDeleteWithForeignVersion(t *testing.T) {
	p := newPair(t)
	made := p.a.create(t, "x")
	carry(t, p.a, p.b)
	remove := func(version string) error {
		return p.b.Delete(p.b.ctx, "/pods/ns/x", &example.Pod{}, &apiserverstorage.Preconditions{ResourceVersion: &version},
			func(context.Context, runtime.Object) error { return nil }, nil, apiserverstorage.DeleteOptions{})
	}
	changed := p.a.label(t, "x", "1")
	if err := remove(changed.ResourceVersion); err == nil {
		t.Fatal("deleted a state that had not arrived yet")
	}
	if local := p.b.LocalVersion(t.Context(), "ns", "x", made.ResourceVersion); local == made.ResourceVersion {
		t.Error("the state both hold has no local version")
	}
	carry(t, p.a, p.b)
	if local := p.b.LocalVersion(t.Context(), "ns", "x", made.ResourceVersion); local != made.ResourceVersion {
		t.Error("a state overwritten has a local version")
	}
	if err := remove(made.ResourceVersion); !apiserverstorage.IsInvalidObj(err) {
		t.Errorf("delete by an outdated version: %v, want a failed precondition", err)
	}
	if err := remove(changed.ResourceVersion); err != nil {
		t.Errorf("delete by a foreign version of the same state: %v", err)
	}
}

// TestMergeUnderSelector: what a merge changes is shown as any change is.
func TestMergeUnderSelector(t *testing.T) {
	p := newPair(t)
	p.a.create(t, "x")
	p.a.label(t, "x", "in")
	carry(t, p.a, p.b)
	p.b.create(t, "z") // so that the two stores differ in versions

	opts := everything()
	selector, err := labels.Parse("l=in")
	if err != nil {
		t.Fatal(err)
	}
	opts.Predicate = apiserverstorage.SelectionPredicate{Label: selector, Field: fields.Everything(), GetAttrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
		return obj.(*example.Pod).Labels, nil, nil
	}}
	opts.ResourceVersion = p.b.db.Version().String()
	w, err := p.b.Watch(p.b.ctx, "/pods/", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	p.a.label(t, "x", "out")
	carry(t, p.a, p.b)
	e := <-w.ResultChan()
	if pod, ok := e.Object.(*example.Pod); e.Type != watch.Deleted || !ok || pod.Labels["l"] != "in" {
		t.Errorf("leaving the selector by a merge: %s %+v, want it deleted with its last selected state", e.Type, e.Object)
	}
	p.a.label(t, "x", "in")
	carry(t, p.a, p.b)
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("coming back by a merge: %s, want added", e.Type)
	}
}

// TestMergeOfAnotherLife: of two objects made under one name the earlier stays;
// where it displaces the other, watchers see one go and one come.
func TestMergeOfAnotherLife(t *testing.T) {
	p := newPair(t)
	mk := func(s *setup, uid string) *example.Pod {
		pod, out := testPod("x"), &example.Pod{}
		pod.UID = types.UID(uid)
		if err := s.Create(s.ctx, "/pods/ns/x", pod, out, 0); err != nil {
			t.Fatal(err)
		}
		return out
	}
	mk(p.a, "earlier")
	later := mk(p.b, "later")
	opts := everything()
	opts.ResourceVersion = later.ResourceVersion
	w, err := p.b.Watch(p.b.ctx, "/pods/", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	carry(t, p.a, p.b)
	gone, come := <-w.ResultChan(), <-w.ResultChan()
	if pod, ok := gone.Object.(*example.Pod); gone.Type != watch.Deleted || !ok || pod.UID != "later" {
		t.Errorf("first %s %+v, want the later life deleted", gone.Type, gone.Object)
	}
	if pod, ok := come.Object.(*example.Pod); come.Type != watch.Added || !ok || pod.UID != "earlier" {
		t.Errorf("then %s %+v, want the earlier life added", come.Type, come.Object)
	}
	if g, c := gone.Object.(*example.Pod).ResourceVersion, come.Object.(*example.Pod).ResourceVersion; strings.Compare(g, c) >= 0 {
		t.Errorf("versions %s and %s do not grow", g, c)
	}
}
