// Package elect decides which host answers on the link for the addresses of
// services of type LoadBalancer, and has this host's announce.Responder do so.
//
// Candidates and Announcer are pure: each host computes the same from the same
// services, endpoints and living hosts, without a word between them
// (gossip/rendezvous), so an address moves as soon as gossip calls its host
// failed, and only then or when the endpoints ask for it. With
// externalTrafficPolicy Local a host stands for election only with an endpoint
// of its own.
//
// What always holds: only addresses that came from an AddressPool are announced
// (the condition v1alpha1.AddressAssigned); who announces one writes so into the
// service's condition v1alpha1.Announced, after it has begun. Hosts that do not
// see each other both announce, and stop when they do.
//
// The daemon runs one Controller; when Run returns nothing is answered any more.
package elect
