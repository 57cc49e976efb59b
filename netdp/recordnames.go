package netdp

import (
	"time"

	"shoal/netdp/netns"
)

// namesFresh is how long a round of looking names up is good.
const namesFresh = time.Second

// recordNames turns numbers of records into names. It looks again at most once
// in namesFresh, so one reader's records cost no more the more there are.
type recordNames struct {
	d        *Datapath
	services map[uint32]string
	asked    time.Time         // for services
	pods     map[uint64]string // netns cookie → pod uid
	known    map[string]uint64 // the same, the other way
	looked   time.Time         // for pods
	host     uint64
}

func (d *Datapath) newRecordNames() (*recordNames, error) {
	host, err := d.host.cookie()
	return &recordNames{d: d, pods: map[uint64]string{}, known: map[string]uint64{}, host: host}, err
}

func (n *recordNames) service(id uint32) string {
	if id == 0 {
		return ""
	}
	if now := time.Now(); now.Sub(n.asked) > namesFresh {
		n.services, n.asked = n.d.table.keys(), now
	}
	return n.services[id]
}

// caller is whose network namespace it is.
func (n *recordNames) caller(cookie uint64) (podUID string, host bool) {
	if cookie == n.host {
		return "", true
	}
	if _, ok := n.pods[cookie]; !ok && time.Since(n.looked) > namesFresh {
		n.looked = time.Now()
		n.findPods()
	}
	return n.pods[cookie], false
}

// findPods learns the cookies of pods that came, and forgets those that left.
func (n *recordNames) findPods() {
	here := map[string]bool{}
	for uid, path := range n.d.podNamespacesByUID() {
		here[uid] = true
		if _, ok := n.known[uid]; ok {
			continue
		}
		ns, err := openNamespace(path)
		if err != nil {
			continue // it is being made, or is gone
		}
		if cookie, err := ns.cookie(); err == nil && netns.Pinned(path) {
			n.known[uid], n.pods[cookie] = cookie, uid
		}
		ns.close()
	}
	for uid, cookie := range n.known {
		if !here[uid] {
			delete(n.known, uid)
			delete(n.pods, cookie)
		}
	}
}

func (d *Datapath) podNamespacesByUID() map[string]string {
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	out := make(map[string]string, len(d.pods.byUID))
	for uid := range d.pods.byUID {
		out[uid] = d.pods.records.netns(uid)
	}
	d.routed.namespaces(out)
	return out
}
