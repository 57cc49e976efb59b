package support

import "k8s.io/apimachinery/pkg/runtime/schema"

// idleKinds are stored and shown, and nothing acts on them yet. The text
// completes "KIND: …" and says what to do instead where there is something.
var idleKinds = map[schema.GroupResource]string{
	{Group: "networking.k8s.io", Resource: "ingresses"}:                              "stored, but nothing serves it; run an ingress controller, or use a NodePort service",
	{Group: "networking.k8s.io", Resource: "ingressclasses"}:                         "stored, but nothing serves it",
	{Group: "networking.k8s.io", Resource: "servicecidrs"}:                           "stored, but cluster IPs come from the cell's own range only",
	{Group: "networking.k8s.io", Resource: "ipaddresses"}:                            "stored, but cluster IPs are claimed by records of shoal's own",
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"}:                     "stored, but nothing scales by it in this version of shoal",
	{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}:           "stored, but nothing signs it in this version of shoal",
	{Group: "storage.k8s.io", Resource: "csidrivers"}:                                "stored, but CSI drivers are not used in this version of shoal",
	{Group: "storage.k8s.io", Resource: "csinodes"}:                                  "stored, but CSI drivers are not used in this version of shoal",
	{Group: "storage.k8s.io", Resource: "volumeattachments"}:                         "stored, but nothing attaches volumes in this version of shoal",
	{Group: "resource.k8s.io", Resource: "resourceclaims"}:                           "stored, but nothing allocates devices in this version of shoal",
	{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}:                   "stored, but nothing allocates devices in this version of shoal",
	{Group: "resource.k8s.io", Resource: "deviceclasses"}:                            "stored, but nothing allocates devices in this version of shoal",
	{Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas"}:                 "stored, but requests are limited by number alone",
	{Group: "flowcontrol.apiserver.k8s.io", Resource: "prioritylevelconfigurations"}: "stored, but requests are limited by number alone",
}
