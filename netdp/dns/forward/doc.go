// Package forward asks other DNS servers what is not the cell's to know, and
// keeps what they answer for as long as they allow.
//
// What always holds:
//   - One question is asked once at a time, whoever waits for it. That is also
//     what bounds a loop: a question that comes back to us by a server that asks
//     us joins itself and ends with the timeout.
//   - Our own addresses are never asked, whatever resolv.conf says.
//   - The cache is bounded in answers and in bytes; nothing is good for longer than
//     its shortest record, and "no such name" as long as its SOA record says
//     (RFC 2308). An answer without either is not kept.
//   - Questions in flight are bounded, each by askTimeout; Close waits for them.
//   - Where no server answers, an answer that was kept is given past its time (RFC
//     8767), for a day at most; without one that is a failure, told in time.
//   - An answer is taken only if it is to the question, from the address and the
//     random port and id it was asked with.
//
// Package dns calls it for the cell's pods. It validates no signatures: it hands
// on what the servers say (DO, AD, CD).
package forward
