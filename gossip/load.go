package gossip

import "fmt"

// Load is what waits in a Core.
type Load struct {
	Links, Merges, PendingBytes, Works, Adoptions, Suspects int
}

// coreWorks are the works a Core asks for on its own behalf: of each kind of
// session one digest and one adoption, a snapshot's, a floor's; and adoptions
// that a session which was given up since had still asked for.
const coreWorks = 4 + adoptTries

// Load returns what waits.
func (c *Core) Load() Load {
	l := Load{Links: len(c.links), Merges: len(c.merges), Works: len(c.works), Adoptions: len(c.adoptions), Suspects: len(c.suspects)}
	for _, k := range c.links {
		l.PendingBytes += k.pending
	}
	return l
}

// Check says which bound of what may wait is passed; nil if none.
func (l Load) Check() error {
	switch {
	case l.PendingBytes > l.Links*overBytes:
		return fmt.Errorf("%d bytes of %d links wait to be merged", l.PendingBytes, l.Links)
	case l.Merges > l.Links*pushBurst:
		return fmt.Errorf("%d merges of %d links wait", l.Merges, l.Links)
	case l.Works > l.Links*maxAnswers+coreWorks:
		return fmt.Errorf("%d works for %d links are under way", l.Works, l.Links)
	case l.Adoptions > adoptTries:
		return fmt.Errorf("%d vectors wait to be adopted", l.Adoptions)
	case l.Suspects > maxSuspects:
		return fmt.Errorf("%d peers are suspected", l.Suspects)
	}
	return nil
}
