package volume

// SecretsDir is on the tmpfs for secrets. Names directly below it that begin
// with a dot are never a pod's.
func (v *Volumes) SecretsDir() string { return v.secrets }
