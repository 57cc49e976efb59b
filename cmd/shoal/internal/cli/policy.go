package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"shoal/netdp/driver"
	"shoal/netdp/policy"
)

// PolicyCmd is `shoal policy`: what network policies mean.
type PolicyCmd struct {
	Test PolicyTestCmd `cmd:"" help:"Tell whether a connection is allowed, and by which rules."`
}

// PolicyTestCmd is `shoal policy test`.
type PolicyTestCmd struct {
	Namespaced

	From string `arg:"" help:"Who calls: a pod (NAME or NAMESPACE/NAME), an address, or \"outside\"."`
	To   string `arg:"" help:"Who is called, in the same ways."`
	Port string `arg:"" name:"port" help:"The port, by number or by its name in the pod, with /udp or /sctp if not TCP."`
}

// Help is the detail of `shoal policy test --help`.
func (*PolicyTestCmd) Help() string {
	return "It judges by the API's objects; nothing is sent. \"outside\" is an address that only blocks of all addresses contain. " +
		"The address of a service stands for its backends, to which calls are led before policies are asked. " +
		"The exit code is 0 if the connection is allowed, else 1.\n\n" + examples(
		"# May pod web call pod db-0 of namespace data?",
		"shoal policy test web data/db-0 5432",
		"# May a machine outside call it?",
		"shoal policy test 203.0.113.7 data/db-0 metrics",
		"# May it ask a DNS server outside?",
		"shoal policy test data/db-0 outside 53/udp")
}

// Run prints the verdict and its reasons.
func (p *PolicyTestCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	namespace, err := p.namespace(streams)
	if err != nil {
		return err
	}
	_, client, err := p.client(streams)
	if err != nil {
		return err
	}
	from, err := findParty(ctx, client, namespace, p.From)
	if err != nil {
		return err
	}
	to, err := findParty(ctx, client, namespace, p.To)
	if err != nil {
		return err
	}
	if to.service != nil && !to.OwnHost {
		return p.testService(ctx, streams, client, from, to)
	}
	if to.service != nil {
		if _, err := servicePort(to.service, p.Port); err != nil {
			return err
		}
	}
	from, to = from.inFamilyOf(to), to.inFamilyOf(from)
	port, err := parsePolicyPort(p.Port, to.Pod)
	if err != nil {
		return err
	}
	cell, err := policiesOf(ctx, client, from, to)
	if err != nil {
		return err
	}
	verdict := cell.Explain(from.Party, to.Party, port)
	printVerdict(streams.Out, from, to, port, verdict)
	printUnenforced(ctx, streams.Out, client, from, to)
	if !verdict.Allowed {
		return cmdutil.ErrExit
	}
	return nil
}

// parsePolicyPort reads PORT[/PROTOCOL]; a name is looked up in the pod.
func parsePolicyPort(text string, to *corev1.Pod) (policy.Port, error) {
	name, proto, _ := strings.Cut(text, "/")
	port := policy.Port{Protocol: corev1.Protocol(strings.ToUpper(proto))}
	switch port.Protocol {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		return port, fmt.Errorf("policies know no protocol %q; it is one of tcp, udp and sctp", proto)
	}
	if n, err := strconv.ParseUint(name, 10, 16); err == nil && n > 0 {
		port.Number = uint16(n)
		if proto == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		return port, nil
	}
	if to == nil {
		return port, fmt.Errorf("%q is no port number from 1 to 65535; only pods have ports by name", name)
	}
	var names []string
	for i := range to.Spec.Containers {
		for _, p := range to.Spec.Containers[i].Ports {
			if p.Name == name && (proto == "" || p.Protocol == port.Protocol) {
				return policy.Port{Protocol: p.Protocol, Number: uint16(p.ContainerPort)}, nil
			}
			if p.Name != "" {
				names = append(names, p.Name)
			}
		}
	}
	return port, fmt.Errorf("pod %s/%s has no port %q; the names it has: %s", to.Namespace, to.Name, text, orNone(names))
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// policiesOf gets what a verdict depends on, and no more.
func policiesOf(ctx context.Context, client kubernetes.Interface, parties ...namedParty) (*policy.Cell, error) {
	cell := &policy.Cell{}
	seen := map[string]bool{}
	for _, p := range parties {
		if p.Pod == nil || seen[p.Pod.Namespace] {
			continue
		}
		seen[p.Pod.Namespace] = true
		namespace, err := client.CoreV1().Namespaces().Get(ctx, p.Pod.Namespace, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		list, err := client.NetworkingV1().NetworkPolicies(p.Pod.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		cell.Namespaces = append(cell.Namespaces, *namespace)
		cell.Policies = append(cell.Policies, list.Items...)
	}
	return cell, nil
}

func printVerdict(w io.Writer, from, to namedParty, port policy.Port, v policy.Verdict) {
	fmt.Fprintf(w, "%s: %s to %s, port %d/%s\n", allowedOrDenied(v.Allowed), from.name, to.name, port.Number, port.Protocol)
	printJudgement(w, "egress of "+from.name, v.Egress)
	printJudgement(w, "ingress of "+to.name, v.Ingress)
}

// printUnenforced says which party's policies shoal does not enforce, as the label
// of its node tells. Who may not read nodes is not told.
func printUnenforced(ctx context.Context, w io.Writer, client kubernetes.Interface, parties ...namedParty) {
	for _, p := range parties {
		if p.Pod == nil || p.Pod.Spec.HostNetwork || p.Pod.Spec.NodeName == "" {
			continue
		}
		node, err := client.CoreV1().Nodes().Get(ctx, p.Pod.Spec.NodeName, metav1.GetOptions{})
		if err != nil || node.Labels[driver.NodeLabel] != "cni" {
			continue
		}
		fmt.Fprintf(w, "\nnote: node %s gives its pods their network by CNI plugins: shoal does not enforce policies at %s, a plugin may\n", node.Name, p.name)
	}
}

// printJudgement shows what allows, or else all that could have.
func printJudgement(w io.Writer, what string, j policy.Judgement) {
	if j.Free != "" {
		fmt.Fprintf(w, "\n%s: allowed, %s\n", what, j.Free)
		return
	}
	fmt.Fprintf(w, "\n%s: %s\n", what, allowedOrDenied(j.Allowed))
	fmt.Fprintf(w, "  isolated by %s\n", strings.Join(j.Isolating, ", "))
	reasons := j.Allowing
	if !j.Allowed {
		reasons = j.Denying
	}
	for _, r := range reasons {
		rule := ""
		if r.Rule > 0 {
			rule = fmt.Sprintf(", rule %d", r.Rule)
		}
		fmt.Fprintf(w, "  %s%s: %s\n", r.Policy, rule, r.Why)
	}
}

func allowedOrDenied(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}
