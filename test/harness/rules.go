package harness

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// listRules are the commands that print every netfilter rule of a network
// namespace.
var listRules = [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}}

// plantedRules are what a firewall of the machine's own has: nothing may add to
// them, and nothing may take them away.
var plantedRules = [][]string{
	{"nft", "add", "table", "inet", "planted"},
	{"nft", "add", "chain", "inet", "planted", "input", "{ type filter hook input priority 0; policy accept; }"},
	{"nft", "add", "rule", "inet", "planted", "input", "ip", "saddr", "203.0.113.254", "drop"},
}

var ruleCounters = regexp.MustCompile(` ?\[\d+:\d+\]`)

// RulesUnchanged calls inside, and says with a code that is not 0 when afterwards
// the machine has other netfilter rules than before. A firewall's are among them.
func RulesUnchanged(inside func() int) (code int) {
	ctx := context.Background()
	for _, argv := range plantedRules {
		if r := (Command{Argv: argv}).Run(ctx); r.Err != nil {
			fmt.Fprintln(os.Stderr, "harness: plant a firewall's rules:", r.Err)
			return 1
		}
	}
	run := func(argv ...string) (string, error) {
		r := Command{Argv: argv}.Run(ctx)
		return r.Stdout, r.Err
	}
	before, err := Rules(run)
	if err == nil && !strings.Contains(before, "203.0.113.254") {
		err = fmt.Errorf("the rules do not show what was planted: %s", before)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness: list rules:", err)
		return 1
	}
	code = inside()
	after, err := Rules(run)
	if err == nil && after != before {
		err = fmt.Errorf("they were changed; before:\n%s\nafter:\n%s", before, after)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness: netfilter rules:", err)
		return max(code, 1)
	}
	return code
}

// Rules lists the netfilter rules where run runs a command: nft's and both of
// iptables', without what says when they were listed and how many packets met them.
func Rules(run func(argv ...string) (string, error)) (string, error) {
	var out strings.Builder
	for _, argv := range listRules {
		listed, err := run(argv...)
		if err != nil {
			return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
		for line := range strings.Lines(listed) {
			if !strings.HasPrefix(line, "#") {
				out.WriteString(ruleCounters.ReplaceAllString(line, ""))
			}
		}
	}
	return out.String(), nil
}
