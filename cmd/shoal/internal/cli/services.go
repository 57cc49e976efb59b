package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	v1 "shoal/api/control/v1"
)

// ServicesCmd is `shoal services`: what hosts' kernels hold of services.
type ServicesCmd struct {
	Namespaced
	onHosts

	Name     string `arg:"" optional:"" help:"The name of a service; all of the namespace if empty."`
	Backends bool   `help:"Show every backend."`
	Output   string `short:"o" enum:"table,json" default:"table" help:"Output format: ${enum}."`
}

// Help is the detail of `shoal services --help`.
func (*ServicesCmd) Help() string {
	return `Shows what the kernels of hosts forward for a service, beside what the hosts'
stores say. They differ for a moment after a change; where they go on to differ,
something is wrong: see the Events of the service, and shoal status. What differs
is marked with a star, and the exit code is 1. Of the hosts that forward an address
of a load balancer, the one that answers for it on the link has it announced.

` + examples("shoal services web --backends", "shoal services web --backends --host=host2", "shoal services -n shop -o json")
}

// errDiffers is the outcome, in place of an error message that says it again.
var errDiffers = errors.New("kernel and store differ where there is a star")

// Run asks the hosts and prints their answers.
func (c *ServicesCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	namespace, err := c.namespace(streams)
	if err != nil {
		return err
	}
	hosts, err := c.connect(ctx, &c.Connection, streams)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	query := url.Values{"namespace": {namespace}}
	if c.Name != "" {
		query.Set("name", c.Name)
	}
	answers := make([]v1.HostServices, len(hosts))
	at := map[*hostClient]int{}
	for i, h := range hosts {
		at[h] = i
	}
	errs := eachHost(hosts, func(h *hostClient) (err error) {
		answers[at[h]], err = h.services(ctx, query)
		return err
	})
	found, differs := 0, false
	kept := answers[:0]
	for i, a := range answers {
		if errs[i] != nil {
			continue
		}
		kept = append(kept, a)
		found += len(a.Services)
		for j := range a.Services {
			differs = differs || a.Services[j].Differs()
		}
	}
	if c.Output == "json" {
		errs = append(errs, writeJSON(streams.Out, map[string]any{"items": kept}))
	} else if found > 0 {
		errs = append(errs, printServices(streams.Out, kept, c.Backends))
	}
	if found == 0 && errors.Join(errs...) == nil {
		return c.noneFound(namespace)
	}
	if differs {
		errs = append(errs, errDiffers)
	}
	return errors.Join(errs...)
}

func (c *ServicesCmd) noneFound(namespace string) error {
	what := "any service"
	if c.Name != "" {
		what = fmt.Sprintf("a service %q", c.Name)
	}
	return fmt.Errorf("no host forwards %s of namespace %q\nOne that is headless, or has no cluster IP, is not in the kernel; see shoal get services -n %s, "+
		"and shoal get namespaces for the name", what, namespace, namespace)
}

func (h *hostClient) services(ctx context.Context, query url.Values) (answer v1.HostServices, err error) {
	response, err := h.get(ctx, v1.ServicesPath, query)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswerBytes)).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the services of %s: %w", h.name, err)
	}
	return answer, nil
}

func printServices(w io.Writer, hosts []v1.HostServices, backends bool) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if backends {
		fmt.Fprintln(table, "HOST\tSERVICE\tBACKEND\tWHO\tKERNEL\tSTORE\t")
	} else {
		fmt.Fprintln(table, "HOST\tSERVICE\tADDRESS\tBACKENDS\tKERNEL\tSTORE\t")
	}
	for _, host := range hosts {
		for i := range host.Services {
			if backends {
				printBackends(table, host.Host, &host.Services[i])
			}
			printAddresses(table, host.Host, &host.Services[i], backends)
		}
	}
	return table.Flush()
}

// printAddresses prints those that differ alone when backends are shown.
func printAddresses(table io.Writer, host string, s *v1.HostService, differing bool) {
	for _, a := range s.Addresses {
		if differing && a.Kernel == a.Store {
			continue
		}
		kernel, store := 0, 0
		for _, b := range s.Backends {
			if b.Kernel == v1.BackendActive {
				kernel++
			}
			if b.Store == v1.BackendActive {
				store++
			}
		}
		count := fmt.Sprint(kernel)
		if kernel != store {
			count = fmt.Sprintf("%d (store: %d)", kernel, store)
		}
		if a.Announced {
			a.Address += " (announced)"
		}
		star := mark(a.Kernel != a.Store || !differing && kernel != store)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", host, s.Name, a.Address, count, there(a.Kernel), there(a.Store), star)
	}
}

func printBackends(table io.Writer, host string, s *v1.HostService) {
	for _, b := range s.Backends {
		who := b.Pod
		if who == "" && b.Node != "" {
			who = "host " + b.Node
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", host, s.Name, b.Address, orDash(who), orDash(b.Kernel), orDash(b.Store), mark(b.Kernel != b.Store))
	}
	if len(s.Backends) == 0 {
		fmt.Fprintf(table, "%s\t%s\t-\t-\t-\t-\t\n", host, s.Name)
	}
}

func there(is bool) string {
	if is {
		return "yes"
	}
	return "-"
}

func mark(differs bool) string {
	if differs {
		return "*"
	}
	return ""
}
