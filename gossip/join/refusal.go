package join

import (
	"fmt"
	"time"
)

// Code says why a host may not join.
type Code string

// The reasons.
const (
	UnknownToken Code = "unknown-token"
	ExpiredToken Code = "expired-token"
	UsedToken    Code = "used-token"
	WrongCell    Code = "wrong-cell"
	NameAlive    Code = "name-alive"
	NameKnown    Code = "name-known"
	ClockSkew    Code = "clock-skew"
	JoinerTooOld Code = "joiner-too-old"
	JoinerTooNew Code = "joiner-too-new"
	TooMany      Code = "too-many-attempts"
	OtherSetting Code = "other-setting"
	BadRequest   Code = "bad-request"
	Unable       Code = "unable"
)

// Refusal is why a host was not let in. Its text says what to do next.
type Refusal struct { //nolint:errname // it is a message of the protocol first
	Code Code `json:"code"`
	// Name of the node: the joiner's, for the codes about names.
	Name string `json:"name,omitempty"`
	// Skew is how far the joiner's clock is ahead of the peer's; negative when behind.
	Skew time.Duration `json:"skew,omitempty"`
	// Speaks are the versions of the cell's peer, for the codes about versions.
	Speaks Versions `json:"speaks,omitzero"`
	// RetryAfter, for TooMany.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	// Setting is the name of the flag that the cell Has another value of than the
	// host Said, for OtherSetting.
	Setting string `json:"setting,omitempty"`
	Has     string `json:"has,omitempty"`
	Said    string `json:"said,omitempty"`
	// Detail is the peer's own words, for what has no fields.
	Detail string `json:"detail,omitempty"`
}

const another = "make another with `shoal token create` on a host of the cell"

func (r *Refusal) Error() string {
	switch r.Code {
	case UnknownToken:
		return "join token is not known in the cell: it was mistyped, revoked or never made there; " + another
	case ExpiredToken:
		return "join token has expired; " + another + " (--ttl says how long it lasts)"
	case UsedToken:
		return "join token was for one host and " + r.Name + " has used it; " + another
	case WrongCell:
		return "the host answering there is of another cell than the join token: " + r.Detail +
			"; the secret was not sent. Check the address given to --join, or " + another
	case NameAlive:
		return fmt.Sprintf("a member named %s is alive in the cell; give this host another name with --name", r.Name)
	case NameKnown:
		return fmt.Sprintf("the cell knows a host named %s; run `shoal node forget %s` first if that host is gone, or give this one another name with --name", r.Name, r.Name)
	case ClockSkew:
		return fmt.Sprintf("this host's clock is %s the cell's, more than %s; set it (for example `timedatectl set-ntp true`) and start again, or set the other's if that one is wrong", skewText(r.Skew), MaxSkew)
	case JoinerTooOld:
		return fmt.Sprintf("this host's shoal is too old for the cell, which speaks join protocol %s; upgrade shoal on this host", r.Speaks)
	case JoinerTooNew:
		return fmt.Sprintf("this host's shoal is too new for the cell, which speaks join protocol %s; upgrade shoal on the cell's hosts first, or install their version here", r.Speaks)
	case TooMany:
		return fmt.Sprintf("too many attempts to join from this address; try again in %s", r.RetryAfter.Round(time.Second))
	case OtherSetting:
		return fmt.Sprintf("the cell has --%s %s, and this host was told %s; all hosts of a cell must have the same: start this one without --%s to take the cell's", r.Setting, r.Has, r.Said, r.Setting)
	case BadRequest:
		return "the cell did not accept the request to join: " + r.Detail
	}
	return "the cell could not let this host in: " + r.Detail + "; try again, or join through another host"
}

func (v Versions) String() string {
	if v.Oldest == v.Newest {
		return fmt.Sprint(v.Newest)
	}
	return fmt.Sprintf("%d to %d", v.Oldest, v.Newest)
}

func skewText(skew time.Duration) string {
	if skew < 0 {
		return (-skew).Round(time.Second).String() + " behind"
	}
	return skew.Round(time.Second).String() + " ahead of"
}

func beyondSkew(skew time.Duration) bool { return skew > MaxSkew || skew < -MaxSkew }

// agree picks the newest version both speak, or says which side is behind.
func agree(joiner, cell Versions) (uint16, *Refusal) {
	switch {
	case joiner.Newest < cell.Oldest:
		return 0, &Refusal{Code: JoinerTooOld, Speaks: cell}
	case joiner.Oldest > cell.Newest || joiner.Oldest > joiner.Newest:
		return 0, &Refusal{Code: JoinerTooNew, Speaks: cell}
	}
	return min(joiner.Newest, cell.Newest), nil
}
