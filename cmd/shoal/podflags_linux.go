package main

// PodFlags are flags of `shoal start` about what pods may use here.
type PodFlags struct {
	Runtime []string `sep:"none" placeholder:"HANDLER=PATH" help:"An OCI runtime for RuntimeClasses with this handler, as in crun=/usr/bin/crun, or another containerd shim with its configuration, as in runsc=io.containerd.runsc.v1:/etc/runsc.toml; may be repeated."`

	Manifests string `placeholder:"DIR" help:"Pods in files here run on this host without the API's doing (default: manifests in the data directory)."`

	AllowedUnsafeSysctls []string `placeholder:"NAME,..." help:"Sysctls, or patterns that end in *, that pods may set beside the safe ones."`
	SeccompDefault       bool     `help:"Give pods without a seccomp profile the runtime's default."`
}
