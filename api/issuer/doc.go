// Package issuer lets peers ask each other what their versions stand for. A
// resourceVersion is a position in the order of one peer, its issuer; any other
// peer that is shown one has to ask (design section 2).
//
// What always holds: an answer is about the version asked, or there is none. A
// peer tells others no more than a vector and a digest, never an object.
//
// Asker is the asking side, behind api/storage's Peers; Vector and Digest are
// the answering side, which the daemon registers with its gossip node.
package issuer
