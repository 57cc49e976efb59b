package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/netdp/policy/tables"
)

// Index knows all namespaces, pods and policies of the cell and what they mean
// for this host. It is pure; its owner guards it.
type Index struct {
	namespaces map[string]labels.Set
	policies   map[string]map[string]*spec // by namespace and name
	pods       map[string]*podState        // by uid
	mirrors    map[mirrorOf]string         // static pod → uid of its mirror
	attached   map[string]*attachedPod     // of this host, by uid

	dirtyIdentities map[string]struct{} // uids of attached whose host may know less than the API

	// What identities are made of: what policies ask for.
	keys, names []string
	identities  map[string]*identity // by text
	numbers     ids                  // of identities
	addrs       map[netip.Addr][]*podState

	dirtyPods     map[string]struct{} // by uid
	dirtyAddrs    map[netip.Addr]struct{}
	dirtySubjects map[string]struct{} // uids of attached
	dirtyPolicies bool                // keys and names may have changed
	dirtyRules    bool

	// namedBlocks: an egress rule has a port's name for a range of addresses, and
	// so depends on which pods have them.
	namedBlocks bool
}

// podState is a pod and what was made of it.
type podState struct {
	pod      Pod
	identity *identity // nil: none yet, or no network of its own
	claims   []netip.Addr
	gone     bool // the API does not have it, but its network is here
	told     bool // and never had, as far as is known: its host said what it is
}

// mirrorOf is what the mirror of a static pod says it shows. The uid alone is an
// annotation that anybody may write; a name of a namespace is had by one pod.
type mirrorOf struct{ uid, namespace, name string }

func (p *Pod) mirrorOf() mirrorOf { return mirrorOf{p.Mirror, p.Namespace, p.Name} }

// attachedPod is a pod whose network is on this host.
type attachedPod struct {
	tables.LocalPod
	subject tables.Subject
}

// identity is shared by pods that no policy can tell apart.
type identity struct {
	id        tables.ID
	namespace string
	labels    labels.Set
	ports     []NamedPort
	text      string
	portText  string
	pods      int
	subject   *tables.Subject // of pods of this host; nil: not asked for
}

// NewIndex knows nothing.
func NewIndex() *Index {
	return &Index{
		namespaces: map[string]labels.Set{}, policies: map[string]map[string]*spec{},
		pods: map[string]*podState{}, mirrors: map[mirrorOf]string{}, attached: map[string]*attachedPod{},
		identities: map[string]*identity{}, numbers: ids{}, addrs: map[netip.Addr][]*podState{},
		dirtyPods: map[string]struct{}{}, dirtyAddrs: map[netip.Addr]struct{}{}, dirtySubjects: map[string]struct{}{},
		dirtyIdentities: map[string]struct{}{}, dirtyRules: true,
	}
}

// SetNamespace notes a namespace's labels.
func (x *Index) SetNamespace(name string, l map[string]string) {
	if have, ok := x.namespaces[name]; ok && maps.Equal(have, l) {
		return
	}
	x.namespaces[name] = maps.Clone(l)
	x.dirtyRules = true
}

// DeleteNamespace forgets one.
func (x *Index) DeleteNamespace(name string) {
	delete(x.namespaces, name)
	x.dirtyRules = true
}

// SetPolicy notes a policy. The error names what cannot be read of it; the rest
// counts.
func (x *Index) SetPolicy(p *networkingv1.NetworkPolicy) error {
	s, err := readSpec(p)
	x.DeletePolicy(p.Namespace, p.Name)
	if s != nil {
		if x.policies[p.Namespace] == nil {
			x.policies[p.Namespace] = map[string]*spec{}
		}
		x.policies[p.Namespace][p.Name] = s
	}
	return err
}

// DeletePolicy forgets one.
func (x *Index) DeletePolicy(namespace, name string) {
	delete(x.policies[namespace], name)
	if len(x.policies[namespace]) == 0 {
		delete(x.policies, namespace)
	}
	x.dirtyPolicies, x.dirtyRules = true, true
}

// SetPod notes a pod.
func (x *Index) SetPod(p Pod) {
	state := x.pods[p.UID]
	if state == nil {
		state = &podState{}
		x.pods[p.UID] = state
	} else if state.pod.equal(p) && !state.gone {
		return
	}
	if state.pod.Mirror != p.Mirror {
		x.forgetMirror(&state.pod)
	}
	state.pod, state.gone, state.told = p, false, false
	if p.Mirror != "" {
		x.mirrors[p.mirrorOf()] = p.UID
		x.dirtySubjects[p.Mirror] = struct{}{}
		x.dirtyPods[p.Mirror] = struct{}{}
		x.dirtyIdentities[p.Mirror] = struct{}{}
	}
	x.dirtyIdentities[p.UID] = struct{}{}
	x.dirtyPods[p.UID] = struct{}{}
	x.dirtySubjects[p.UID] = struct{}{}
}

// DeletePod forgets a pod. One whose network is still here keeps its policies
// until that is gone.
func (x *Index) DeletePod(uid string) {
	if state := x.pods[uid]; state != nil {
		state.gone = true
		x.dirtyPods[uid] = struct{}{}
	}
}

// Attach notes a pod whose network is on this host.
func (x *Index) Attach(p tables.LocalPod) {
	for uid, other := range x.attached { // one that we were not told the end of
		if uid != p.UID && slices.ContainsFunc(other.Addrs, func(a netip.Addr) bool { return slices.Contains(p.Addrs, a) }) {
			x.Detach(uid)
		}
	}
	x.attached[p.UID] = &attachedPod{LocalPod: p, subject: tables.Held}
	x.dirtySubjects[p.UID] = struct{}{}
	x.dirtyIdentities[p.UID] = struct{}{}
	x.Identify(p)
	x.touch(p.UID)
}

// Identify notes what the host knows of a pod whose network is here. It counts while
// the API has never said anything: of a static pod whose mirror is refused, and of a
// pod that was deleted while nobody looked.
func (x *Index) Identify(p tables.LocalPod) {
	a := x.attached[p.UID]
	if a == nil || p.Identity == nil {
		return
	}
	a.Identity = p.Identity
	state := x.pods[p.UID]
	if state != nil && !state.told {
		return
	}
	if state == nil {
		state = &podState{}
		x.pods[p.UID] = state
	}
	state.gone, state.told = true, true
	state.pod = Pod{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Labels: p.Identity.Labels, Ports: p.Identity.Ports}
	x.dirtyPods[p.UID] = struct{}{}
	x.dirtySubjects[p.UID] = struct{}{}
}

// News are the pods of this host that the API says more of than the host was told,
// as they are now. Each is told once.
func (x *Index) News() (out []tables.LocalPod) {
	for uid := range x.dirtyIdentities {
		a, state := x.attached[uid], x.podOf(uid)
		if a == nil || state == nil || state.told || state.pod.identity().Equal(a.Identity) {
			continue
		}
		a.Identity = state.pod.identity()
		out = append(out, a.LocalPod)
	}
	clear(x.dirtyIdentities)
	return out
}

// Detach notes that a pod's network is gone.
func (x *Index) Detach(uid string) (addrs []netip.Addr) {
	a := x.attached[uid]
	if a == nil {
		return nil
	}
	x.touch(uid)
	delete(x.attached, uid)
	return a.Addrs
}

// touch has a pod of this host looked at again.
func (x *Index) touch(attachedUID string) {
	if state := x.podOf(attachedUID); state != nil {
		x.dirtyPods[state.pod.UID] = struct{}{}
	}
}

// podOf finds the pod that a network of this host belongs to.
func (x *Index) podOf(attachedUID string) *podState {
	state := x.pods[attachedUID]
	if state != nil && !state.told {
		return state
	}
	if a := x.attached[attachedUID]; a != nil {
		if mirror := x.pods[x.mirrors[mirrorOf{a.UID, a.Namespace, a.Name}]]; mirror != nil {
			return mirror
		}
	}
	return state
}

func (x *Index) forgetMirror(p *Pod) {
	if x.mirrors[p.mirrorOf()] == p.UID {
		delete(x.mirrors, p.mirrorOf())
		x.dirtySubjects[p.Mirror] = struct{}{}
	}
}

// attachedAs is the network that a pod has on this host.
func (x *Index) attachedAs(p *Pod) *attachedPod {
	if a := x.attached[p.UID]; a != nil {
		return a
	}
	if a := x.attached[p.Mirror]; a != nil && p.mirrorOf() == (mirrorOf{a.UID, a.Namespace, a.Name}) {
		return a
	}
	return nil
}

// Flush tells what has changed since the last call. complete asks for
// everything.
func (x *Index) Flush(complete bool) tables.Change {
	if x.dirtyPolicies {
		x.askPolicies()
	}
	for uid := range x.dirtyPods {
		x.settle(x.pods[uid])
	}
	clear(x.dirtyPods)
	change := tables.Change{Complete: complete, Peers: map[netip.Addr]tables.ID{}, Subjects: map[netip.Addr]tables.Subject{}}
	x.findLocalIdentities()
	x.dirtyRules = x.dirtyRules || x.namedBlocks && len(x.dirtyAddrs) > 0
	if x.dirtyRules || complete {
		change.Rules = x.compile()
		x.dirtyRules = false
		for uid := range x.attached {
			x.dirtySubjects[uid] = struct{}{}
		}
	}
	x.flushSubjects(&change)
	if complete {
		for addr := range x.addrs {
			x.dirtyAddrs[addr] = struct{}{}
		}
	}
	for addr := range x.dirtyAddrs {
		change.Peers[addr] = 0
		if id := x.owner(addr); id != nil {
			change.Peers[addr] = id.id
		}
	}
	clear(x.dirtyAddrs)
	return change
}

// askPolicies collects what identities have to be made of.
func (x *Index) askPolicies() {
	keys, names := map[string]struct{}{}, map[string]struct{}{}
	for _, of := range x.policies {
		for _, s := range of {
			s.asks(func(k string) { keys[k] = struct{}{} }, func(n string) { names[n] = struct{}{} })
		}
	}
	x.dirtyPolicies, x.namedBlocks = false, false
	for _, of := range x.policies {
		for _, s := range of {
			x.namedBlocks = x.namedBlocks || s.namesPortsOfBlocks()
		}
	}
	sortedKeys, sortedNames := slices.Sorted(maps.Keys(keys)), slices.Sorted(maps.Keys(names))
	if slices.Equal(sortedKeys, x.keys) && slices.Equal(sortedNames, x.names) {
		return
	}
	x.keys, x.names = sortedKeys, sortedNames
	for uid := range x.pods {
		x.dirtyPods[uid] = struct{}{}
	}
}

// settle makes a pod's identity and addresses what they should be.
func (x *Index) settle(state *podState) {
	if state == nil {
		return
	}
	local := x.attachedAs(&state.pod)
	if state.told && x.podOf(state.pod.UID) != state { // its mirror says it now
		local = nil
	}
	var claims []netip.Addr
	switch {
	case local != nil:
		claims = local.Addrs
	case !state.gone:
		claims = state.pod.Addrs
	}
	var text, portText string
	if len(claims) > 0 {
		text, portText = x.identityText(&state.pod)
	}
	if state.identity == nil || state.identity.text != text {
		x.release(state.identity)
		state.identity = x.acquire(&state.pod, text, portText)
		x.dirtySubjects[state.pod.UID] = struct{}{}
		if state.pod.Mirror != "" {
			x.dirtySubjects[state.pod.Mirror] = struct{}{}
		}
		for _, addr := range state.claims {
			x.dirtyAddrs[addr] = struct{}{}
		}
	}
	x.claim(state, claims, local != nil)
	if state.gone && local == nil {
		delete(x.pods, state.pod.UID)
		x.forgetMirror(&state.pod)
	}
}

// claim: of pods that seem to have one address, one with its network here has
// it, else the one that said so last.
func (x *Index) claim(state *podState, addrs []netip.Addr, local bool) {
	if !slices.Equal(state.claims, addrs) || local {
		for _, addr := range state.claims {
			x.addrs[addr] = slices.DeleteFunc(x.addrs[addr], func(s *podState) bool { return s == state })
			if len(x.addrs[addr]) == 0 {
				delete(x.addrs, addr)
			}
			x.dirtyAddrs[addr] = struct{}{}
		}
		for _, addr := range addrs {
			x.addrs[addr] = append(x.addrs[addr], state)
			x.dirtyAddrs[addr] = struct{}{}
		}
		state.claims = slices.Clone(addrs)
	}
}

func (x *Index) owner(addr netip.Addr) *identity {
	claims := x.addrs[addr]
	var found *podState
	for _, s := range claims {
		if found == nil || x.attachedAs(&found.pod) == nil || x.attachedAs(&s.pod) != nil {
			found = s
		}
	}
	if found == nil {
		return nil
	}
	return found.identity
}

// identityText has what policies can see of a pod, and of its ports alone.
func (x *Index) identityText(p *Pod) (text, ports string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", p.Namespace)
	for _, key := range x.keys {
		if value, ok := p.Labels[key]; ok {
			fmt.Fprintf(&b, " %q=%q", key, value)
		}
	}
	var list []string
	for _, port := range p.Ports {
		if _, asked := slices.BinarySearch(x.names, port.Name); asked {
			list = append(list, fmt.Sprintf("%q:%d:%d", port.Name, port.Protocol, port.Port))
		}
	}
	slices.Sort(list)
	ports = strings.Join(slices.Compact(list), " ")
	return b.String() + " | " + ports, ports
}

func (x *Index) acquire(p *Pod, text, portText string) *identity {
	if text == "" {
		return nil
	}
	id := x.identities[text]
	if id == nil {
		id = &identity{id: x.numbers.of(text), namespace: p.Namespace, text: text, portText: portText, labels: labels.Set{}}
		for _, key := range x.keys {
			if value, ok := p.Labels[key]; ok {
				id.labels[key] = value
			}
		}
		for _, port := range p.Ports {
			if _, asked := slices.BinarySearch(x.names, port.Name); asked {
				id.ports = append(id.ports, port)
			}
		}
		x.identities[text] = id
		x.dirtyRules = true
	}
	id.pods++
	return id
}

func (x *Index) release(id *identity) {
	if id == nil {
		return
	}
	if id.pods--; id.pods == 0 {
		delete(x.identities, id.text)
		delete(x.numbers, id.id)
		x.dirtyRules = true
	}
}

// findLocalIdentities notices identities that have their first pod here.
func (x *Index) findLocalIdentities() {
	for uid := range x.dirtySubjects {
		if x.attached[uid] == nil {
			continue
		}
		if state := x.podOf(uid); state != nil && state.identity != nil && state.identity.subject == nil {
			x.dirtyRules = true
			return
		}
	}
}

// flushSubjects tells the sets of pods of this host. One whose object is not
// known stays held.
func (x *Index) flushSubjects(change *tables.Change) {
	for uid := range x.dirtySubjects {
		a := x.attached[uid]
		if a == nil {
			continue
		}
		subject := a.subject
		if state := x.podOf(uid); state != nil && state.identity != nil && state.identity.subject != nil {
			subject = *state.identity.subject
		}
		if subject != a.subject || change.Complete || subject == tables.Held {
			a.subject = subject
			for _, addr := range a.Addrs {
				change.Subjects[addr] = subject
			}
		}
	}
	clear(x.dirtySubjects)
}
