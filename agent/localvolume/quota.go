package localvolume

// quotas sets limits of projects.
type quotas struct{}

func (d *Directories) limit(string, int64) error { return nil }
func (d *Directories) unlimit(string) error      { return nil }
