// Package healthport answers on the health-check node port that a service of
// type LoadBalancer with externalTrafficPolicy Local has
// (spec.healthCheckNodePort): load balancers outside the cell ask there which
// hosts have endpoints of their own.
//
// The answer is kube-proxy's: 200 with a ready endpoint on this host, else 503,
// a JSON body and the header X-Load-Balancing-Endpoint-Weight. Count, which is
// pure, counts the endpoints.
//
// What always holds: a port is open only while its service wants it; each serves
// at most maxConnections at once, for a few seconds each. A port that a process
// of the host has is tried again, and told of.
//
// The daemon runs one Controller. The ports' numbers are the API's affair.
package healthport
