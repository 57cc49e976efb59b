package placement

import "slices"

// maxIdleKinds bounds the kinds that no placed pod and no nominee has: those of
// pods that were asked about and did not find a node.
const maxIdleKinds = 1024

// kind is what other pods' terms can tell of a pod: its namespace and labels.
// All replicas of a template are of one kind, so that a term is compared with
// the kinds, not with the pods.
type kind struct {
	namespace string
	labels    map[string]string
	key       string // of the labels
	holders   int    // pods and nominees
	pods      []*placed
	counters  []*counter  // that count its pods
	standing  []*standing // terms of placed pods that speak of it
}

// kindOf finds or makes the kind of pods with these labels.
func (s *Snapshot) kindOf(namespace string, labels map[string]string) *kind {
	s.kindKey = appendMap(s.kindKey[:0], labels)
	if k := s.kinds[namespace][string(s.kindKey)]; k != nil {
		return k
	}
	k := &kind{namespace: namespace, labels: labels, key: string(s.kindKey)}
	if s.kinds[namespace] == nil {
		s.kinds[namespace] = map[string]*kind{}
	}
	s.kinds[namespace][k.key] = k
	if s.idleKinds++; s.idleKinds > maxIdleKinds {
		s.dropIdleKinds(k)
	}
	s.listen(k)
	return k
}

// listen finds the counters and standing terms that speak of a kind.
func (s *Snapshot) listen(k *kind) {
	k.counters, k.standing = nil, nil
	s.counters.each(k.namespace, func(c *counter) {
		if c.matches(s, k) {
			k.counters = append(k.counters, c)
		}
	})
	s.standing.each(k.namespace, func(t *standing) {
		if t.term.matches(s, k) {
			k.standing = append(k.standing, t)
		}
	})
}

// hold keeps a kind while somebody is of it.
func (s *Snapshot) hold(k *kind) {
	if k.holders++; k.holders == 1 {
		s.idleKinds--
	}
}

func (s *Snapshot) release(k *kind) {
	if k.holders--; k.holders == 0 {
		s.dropKind(k)
	}
}

func (s *Snapshot) join(k *kind, p *placed) {
	p.inKind = len(k.pods)
	k.pods = append(k.pods, p)
}

func (s *Snapshot) quit(p *placed) {
	k := p.kind
	last := len(k.pods) - 1
	k.pods[p.inKind] = k.pods[last]
	k.pods[p.inKind].inKind = p.inKind
	k.pods[last], k.pods = nil, k.pods[:last]
}

func (s *Snapshot) dropKind(k *kind) {
	if delete(s.kinds[k.namespace], k.key); len(s.kinds[k.namespace]) == 0 {
		delete(s.kinds, k.namespace)
	}
}

func (s *Snapshot) dropIdleKinds(but *kind) {
	for _, ofNamespace := range s.kinds {
		for _, k := range ofNamespace {
			if k.holders == 0 && k != but {
				s.dropKind(k)
			}
		}
	}
	s.idleKinds = 1
}

// counts tells whether a counter counts pods of the kind.
func (k *kind) counts(c *counter) bool { return slices.Contains(k.counters, c) }

// speaker is a term, or several, that speak of pods of some namespaces.
type speaker interface {
	comparable
	home() (namespaces []string, local bool)
}

// speakers are found by the namespaces they speak of.
type speakers[T speaker] struct {
	in   map[string][]T
	wide []T // of namespaces that a selector chooses
}

func (l *speakers[T]) add(t T) {
	namespaces, local := t.home()
	if !local {
		l.wide = append(l.wide, t)
		return
	}
	if l.in == nil {
		l.in = map[string][]T{}
	}
	for _, namespace := range namespaces {
		l.in[namespace] = append(l.in[namespace], t)
	}
}

func (l *speakers[T]) remove(t T) {
	without := func(list []T) []T { return slices.DeleteFunc(list, func(other T) bool { return other == t }) }
	namespaces, local := t.home()
	if !local {
		l.wide = without(l.wide)
		return
	}
	for _, namespace := range namespaces {
		if l.in[namespace] = without(l.in[namespace]); len(l.in[namespace]) == 0 {
			delete(l.in, namespace)
		}
	}
}

// each visits those that may speak of a namespace's pods.
func (l *speakers[T]) each(namespace string, visit func(T)) {
	for _, t := range l.in[namespace] {
		visit(t)
	}
	for _, t := range l.wide {
		visit(t)
	}
}

// all visits every one, some of them more than once: those of affinity terms
// that name several namespaces.
func (l *speakers[T]) all(visit func(T)) {
	for _, list := range l.in {
		for _, t := range list {
			visit(t)
		}
	}
	for _, t := range l.wide {
		visit(t)
	}
}

// kindsFor visits the kinds that such terms may speak of.
func (s *Snapshot) kindsFor(namespaces []string, local bool, visit func(*kind)) {
	if local {
		for _, namespace := range namespaces {
			for _, k := range s.kinds[namespace] {
				visit(k)
			}
		}
		return
	}
	for _, ofNamespace := range s.kinds {
		for _, k := range ofNamespace {
			visit(k)
		}
	}
}
