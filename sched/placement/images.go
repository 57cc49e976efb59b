package placement

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// image is one that some node has.
type image struct {
	name  string
	nodes int
}

// SetImages takes over which images a node has, which SetNode does too.
func (s *Snapshot) SetImages(object *v1.Node) {
	if slot, ok := s.bySlot[object.Name]; ok && s.nodes[slot].object != nil {
		s.setImages(s.nodes[slot], object.Status.Images)
	}
}

func (s *Snapshot) setImages(n *node, list []v1.ContainerImage) {
	for i := range n.images {
		if i.nodes--; i.nodes == 0 {
			delete(s.images, i.name)
		}
	}
	n.images = nil
	for i := range list {
		for _, name := range list[i].Names {
			s.addImage(n, name, list[i].SizeBytes)
		}
	}
}

func (s *Snapshot) addImage(n *node, name string, bytes int64) {
	i := s.images[name]
	if i == nil {
		i = &image{name: name}
		s.images[name] = i
	}
	if n.images == nil {
		n.images = map[*image]int64{}
	}
	if _, has := n.images[i]; !has {
		i.nodes++
	}
	n.images[i] = bytes
}

// wanted lists the images of a pod that some node has, and how many images the
// pod has in all.
func (s *Snapshot) wanted(pod *v1.Pod) (list []*image, all int) {
	if len(s.images) == 0 {
		return nil, 0
	}
	add := func(reference string) {
		all++
		if i := s.images[tagged(reference)]; i != nil {
			list = append(list, i)
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			add(v.Reference)
		}
	}
	return list, all
}

// tagged is how a node's status names an image that a pod names without a tag.
func tagged(reference string) string {
	if strings.LastIndex(reference, ":") <= strings.LastIndex(reference, "/") {
		return reference + ":latest"
	}
	return reference
}

// Upstream's bounds: what loads faster than this does not matter, and what is
// larger than this, per image, matters no more.
const (
	smallImageBytes = 23 << 20
	largeImageBytes = 1000 << 20
)

// locality scores a node by the bytes it need not load. An image counts less
// the fewer nodes have it, lest the first node to have it get all the pods.
func (s *Snapshot) locality(n *node, wanted []*image, all int) int64 {
	var bytes int64
	for _, i := range wanted {
		if size, has := n.images[i]; has {
			bytes += int64(float64(size) * (float64(i.nodes) / float64(len(s.ring))))
		}
	}
	large := largeImageBytes * int64(all)
	return fullScore * (min(max(bytes, smallImageBytes), large) - smallImageBytes) / (large - smallImageBytes)
}
