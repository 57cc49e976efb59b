package fields

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// errShape: two states of an object do not fit each other.
	errShape = errors.New("fields do not fit")
	// errLossy: this binary's types do not hold all that was stored, as of a
	// newer version. Joining would drop it in silence.
	errLossy = errors.New("holds fields this version does not know")
	// errUnknown: neither JSON nor of a type in the scheme.
	errUnknown = errors.New("unknown encoding or type")
)

// envelope begins what the API server stores as protobuf; runtime.Unknown
// follows.
var envelope = []byte("k8s\x00")

// object is a stored value with its fields.
type object struct {
	root *tree // made when asked for by open
	// gvk and plan are zero for what is stored as JSON.
	gvk   schema.GroupVersionKind
	typ   runtime.TypeMeta
	plan  *plan
	typed reflect.Value // pointer to what was decoded; zero for JSON
}

// open makes the object's tree.
func (o *object) open() *tree {
	if o.root == nil {
		o.root = o.plan.flatten(o.typed)
		o.root.fixed = true
	}
	return o.root
}

// diff names what after, of the same type, has changed in o.
func (o *object) diff(after *object) set {
	if o.plan == nil {
		return diff(o.root, after.root)
	}
	return o.plan.diff(o.typed, after.typed)
}

// protobuf is what every type of the built-in API has.
type protobuf interface {
	runtime.Object
	Unmarshal([]byte) error
	Marshal() ([]byte, error)
}

// parse reads a stored value, and keeps parts of it.
func (m *Merger) parse(value []byte) (*object, error) {
	if raw, ok := bytes.CutPrefix(value, envelope); ok {
		return m.parseProtobuf(raw)
	}
	root, err := parseDocument(value)
	if err != nil {
		return nil, err
	}
	return &object{root: root}, nil
}

func (m *Merger) parseProtobuf(raw []byte) (o *object, err error) {
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("parse envelope: %w", err)
	}
	o = &object{typ: unknown.TypeMeta, gvk: schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind)}
	typed, err := m.newTyped(o.gvk)
	if err != nil {
		return nil, err
	}
	if err := typed.Unmarshal(unknown.Raw); err != nil {
		return nil, fmt.Errorf("parse %s: %w", o.gvk, err)
	}
	o.typed = reflect.ValueOf(typed)
	o.plan = planOf(o.typed.Type())
	return o, nil
}

func (m *Merger) newTyped(gvk schema.GroupVersionKind) (protobuf, error) {
	made, err := m.scheme.New(gvk)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", gvk, errUnknown)
	}
	typed, ok := made.(protobuf)
	if !ok {
		return nil, fmt.Errorf("make %s: %w", gvk, errUnknown)
	}
	return typed, nil
}

// encode writes root as an object of o's type, in one form.
func (m *Merger) encode(o *object, root *tree) ([]byte, error) {
	if o.plan == nil {
		return encodeDocument(root)
	}
	typed, err := m.newTyped(o.gvk)
	if err != nil {
		return nil, err
	}
	if err := o.plan.buildFields(root, reflect.ValueOf(typed).Elem()); err != nil {
		return nil, err
	}
	raw, err := typed.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.gvk, err)
	}
	unknown, err := (&runtime.Unknown{TypeMeta: o.typ, Raw: raw}).Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.gvk, err)
	}
	return append(bytes.Clone(envelope), unknown...), nil
}

// lossless reports whether o, written back, gives value. Only protobuf can lose
// something: JSON is kept whatever it says.
func (m *Merger) lossless(o *object, value []byte) error {
	if o.plan == nil {
		return nil
	}
	again, err := m.encode(o, o.open())
	if err != nil {
		return err
	}
	if !bytes.Equal(again, value) {
		return fmt.Errorf("write %s back: %w", o.gvk, errLossy)
	}
	return nil
}
