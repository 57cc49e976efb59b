// Package api serves the Kubernetes API on this peer: the upstream API server
// as a library (design section 2) over the records of store/.
//
// Admission, validation, defaulting, authorization, printing and versioning
// are upstream's; this package only assembles them, with four things of its
// own: the storage behind every resource (api/storage), the allocators of
// cluster IPs and node ports (api/claims), the endpoints of the `kubernetes`
// service, and an in-process transport for the daemon's own clients.
//
// What always holds: no etcd is contacted; every read and write of an object
// goes through store/; the listener is opened before anything else, so that a
// taken port is reported at once and nothing is half started.
//
// Called by cmd/shoal only. Controllers, scheduler and agent use it through
// Server.ClientConfig and Server.Informers like any other client.
package api
