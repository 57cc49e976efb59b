package netdp

// Uplinks are the interfaces to other machines, also those that were found
// behind hosts since Open.
func (d *Datapath) Uplinks() []string { return d.uplinkNames() }

// InHost runs f in the host's network namespace, on a thread of its own.
func (d *Datapath) InHost(f func() error) error { return d.host.do(f) }

// HasService tells whether SetService was last called for the key, and not
// DeleteService.
func (d *Datapath) HasService(key string) bool {
	d.table.mu.Lock()
	defer d.table.mu.Unlock()
	return d.table.byKey[key] != nil
}
