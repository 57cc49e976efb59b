package driver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

// memory is a network of names: it notes what is asked for.
type memory struct {
	pods   map[string]netip.Addr
	said   *[]string
	name   string
	broken error
}

func (m *memory) Attach(_ context.Context, pod Pod) (Attachment, error) {
	*m.said = append(*m.said, m.name+" attach "+pod.UID)
	addr := netip.MustParseAddr("192.0.2.7")
	m.pods[pod.UID] = addr
	return Attachment{NetNS: "/ns/" + pod.UID, Addresses: []netip.Addr{addr}}, m.broken
}

func (m *memory) Detach(_ context.Context, uid string) error {
	*m.said = append(*m.said, m.name+" detach "+uid)
	delete(m.pods, uid)
	return m.broken
}

func (m *memory) Attached(context.Context) (uids []string, err error) {
	for uid := range m.pods {
		uids = append(uids, uid)
	}
	return uids, m.broken
}

// SetRouted and DropRouted are those of a datapath.
func (m *memory) SetRouted(uid, netns string, addrs []netip.Addr) error {
	*m.said = append(*m.said, m.name+" set "+uid+" "+netns+" "+addrs[0].String())
	return m.broken
}

func (m *memory) DropRouted(uid string) error {
	*m.said = append(*m.said, m.name+" drop "+uid)
	return m.broken
}

func TestChosen(t *testing.T) {
	var said []string
	now := &memory{pods: map[string]netip.Addr{}, said: &said, name: "now"}
	before := &memory{pods: map[string]netip.Addr{"left": {}, "both": {}}, said: &said, name: "before"}
	c := Chosen{Driver: now, Others: []Driver{before}}
	ctx := context.Background()
	check := func(what string, err error, want ...string) {
		t.Helper()
		if err != nil || !slices.Equal(said, want) {
			t.Errorf("%s: %q, %v; want %q", what, said, err, want)
		}
		said = nil
	}
	_, err := c.Attach(ctx, Pod{UID: "both"})
	check("a pod from before a reboot", err, "before detach both", "now attach both")
	_, err = c.Attach(ctx, Pod{UID: "new"})
	check("a new pod", err, "before detach new", "now attach new")
	if uids, err := c.Attached(ctx); err != nil || !slices.Equal(uids, []string{"both", "left", "new"}) {
		t.Errorf("attached: %q, %v", uids, err)
	}
	check("one that left", c.Detach(ctx, "left"), "now detach left", "before detach left")
	before.broken = errors.New("the plugin is gone")
	if _, err := c.Attach(ctx, Pod{UID: "again"}); !errors.Is(err, before.broken) || slices.Contains(said, "now attach again") {
		t.Errorf("attached beside what is left: %q, %v", said, err)
	}
	if err := c.Detach(ctx, "again"); !errors.Is(err, before.broken) {
		t.Errorf("detached: %v", err)
	}
	if _, err := c.Attached(ctx); !errors.Is(err, before.broken) {
		t.Errorf("listed: %v", err)
	}
}

func TestRouted(t *testing.T) {
	var said []string
	plugins := &memory{pods: map[string]netip.Addr{}, said: &said, name: "plugins"}
	datapath := &memory{said: &said, name: "datapath"}
	r := Routed{Driver: plugins, Routes: datapath}
	ctx := context.Background()
	if got, err := r.Attach(ctx, Pod{UID: "a"}); err != nil || got.NetNS != "/ns/a" {
		t.Errorf("attached: %+v, %v", got, err)
	}
	if err := r.Detach(ctx, "a"); err != nil {
		t.Error(err)
	}
	want := []string{"plugins attach a", "datapath set a /ns/a 192.0.2.7", "datapath drop a", "plugins detach a"}
	if !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	said, plugins.broken = nil, errors.New("no plugin")
	if _, err := r.Attach(ctx, Pod{UID: "a"}); !errors.Is(err, plugins.broken) || len(said) != 1 {
		t.Errorf("the datapath hears of what is not there: %q, %v", said, err)
	}
}
