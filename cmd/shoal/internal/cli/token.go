package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/api/pki"
	"shoal/gossip/join/token"
)

// TokenCmd is `shoal token`: what lets hosts join.
type TokenCmd struct {
	Create TokenCreateCmd `cmd:"" help:"Make a token and print the command that joins a host with it."`
	Ls     TokenLsCmd     `cmd:"" help:"List the tokens."`
	Revoke TokenRevokeCmd `cmd:"" help:"Make a token worthless."`
}

// Help is the detail of `shoal token --help`.
func (*TokenCmd) Help() string {
	return "Tokens are Secrets of type bootstrap.kubernetes.io/token in kube-system.\n\n" + examples(
		"shoal token create",
		"shoal token ls",
		"shoal token revoke abcdef")
}

// tokenConnection is Connection without --token, which would read as a join token.
type tokenConnection struct {
	Kubeconfig string `group:"connection" placeholder:"FILE" help:"Path to the kubeconfig file to use."`
	Context    string `group:"connection" placeholder:"NAME" help:"The context of the kubeconfig to use."`
	Server     string `group:"connection" short:"s" placeholder:"URL" help:"The address of the API server."`
}

func (c *tokenConnection) client(streams genericiooptions.IOStreams) (*rest.Config, kubernetes.Interface, error) {
	return (&Connection{Kubeconfig: c.Kubeconfig, Context: c.Context, Server: c.Server, RequestTimeout: "0"}).client(streams)
}

// TokenCreateCmd is `shoal token create`.
type TokenCreateCmd struct {
	tokenConnection

	TTL       time.Duration `name:"ttl" default:"24h" placeholder:"DURATION" help:"How long the token lets hosts join (default ${default})."`
	SingleUse bool          `help:"Let one host join only." xor:"use"`
	Reusable  bool          `help:"Let any number of hosts join until the token expires (the default)." xor:"use"`
	Port      int           `name:"gossip-port" default:"7946" placeholder:"PORT" help:"The hosts' --gossip-port (default ${default})."`
}

// Help is the detail of `shoal token create --help`.
func (*TokenCreateCmd) Help() string {
	return "Whoever holds the token can add a host to the cell, and a host of the cell holds all its keys: pass it on as you would a password.\n\n" + examples(
		"# Let hosts join for an hour",
		"shoal token create --ttl 1h",
		"# Let one host join",
		"shoal token create --single-use")
}

// longestTTL keeps a slip of the finger from making a token for ever.
const longestTTL = 365 * 24 * time.Hour

// Run makes the token and prints the command for the next host.
func (c *TokenCreateCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	if c.TTL < time.Minute || c.TTL > longestTTL {
		return fmt.Errorf("--ttl %s: want a time from 1m to %dh", c.TTL, int(longestTTL.Hours()))
	}
	config, client, err := c.client(streams)
	if err != nil {
		return err
	}
	cell, err := cellID(ctx, config, client)
	if err != nil {
		return err
	}
	hosts, err := c.hosts(ctx, client)
	if err != nil {
		return err
	}
	made := token.New(cell)
	secret := token.ToSecret(token.Stored{ID: made.ID, Secret: made.Secret, Expires: time.Now().Add(c.TTL), SingleUse: c.SingleUse})
	if _, err := client.CoreV1().Secrets(token.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("keep the token: %w", err)
	}
	times := "Any number of hosts"
	if c.SingleUse {
		times = "One host"
	}
	fmt.Fprintf(streams.ErrOut, "%s can join within %s. On the next host run:\n", times, duration.HumanDuration(c.TTL))
	fmt.Fprintf(streams.Out, "sudo shoal start --join %s --token %s\n", strings.Join(hosts, ","), made)
	return nil
}

// hosts are the gossip addresses of all nodes, ready ones first.
func (c *TokenCreateCmd) hosts(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the hosts to join through: %w", err)
	}
	slices.SortStableFunc(nodes.Items, func(a, b corev1.Node) int {
		switch ready := isReady(&a); {
		case ready == isReady(&b):
			return strings.Compare(a.Name, b.Name)
		case ready:
			return -1
		}
		return 1
	})
	var out []string
	for i := range nodes.Items {
		if host := hostOf(nodes.Items[i : i+1]); host != "" && len(out) < maxJoinHosts {
			out = append(out, net.JoinHostPort(host, strconv.Itoa(c.Port)))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the cell has no node with an address that another host could join through; see `shoal get nodes -o wide`")
	}
	return out, nil
}

// maxJoinHosts in a printed command; one that answers is enough.
const maxJoinHosts = 5

// cellID is pki.CellID of the cell's authority: from the ConfigMap every
// namespace has, else from the kubeconfig.
func cellID(ctx context.Context, config *rest.Config, client kubernetes.Interface) (string, error) {
	var data []byte
	root, err := client.CoreV1().ConfigMaps(token.Namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	switch {
	case err == nil:
		data = []byte(root.Data["ca.crt"])
	case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return "", fmt.Errorf("read the cell's certificate authority: %w", err)
	}
	if len(data) == 0 {
		copied := rest.CopyConfig(config)
		if err := rest.LoadTLSFiles(copied); err != nil {
			return "", fmt.Errorf("read the cell's certificate authority: %w", err)
		}
		data = copied.CAData
	}
	if len(data) == 0 {
		return "", errors.New("the kubeconfig does not name the cell's certificate authority; use the one at /var/lib/shoal/admin.kubeconfig on a host of the cell")
	}
	ca, err := pki.ReadCA(data)
	if err != nil {
		return "", err
	}
	return pki.CellID(ca), nil
}

// TokenLsCmd is `shoal token ls`.
type TokenLsCmd struct {
	tokenConnection
}

// Help is the detail of `shoal token ls --help`.
func (*TokenLsCmd) Help() string { return examples("shoal token ls") }

// Run lists the tokens, without their secrets.
func (c *TokenLsCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	_, client, err := c.client(streams)
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Secrets(token.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return err
	}
	now := time.Now()
	table := tabwriter.NewWriter(streams.Out, 0, 0, 3, ' ', 0)
	count := 0
	for i := range list.Items {
		s, ok := token.FromSecret(&list.Items[i])
		if !ok {
			continue
		}
		if count++; count == 1 {
			fmt.Fprintln(table, "ID\tUSE\tSTATE\tEXPIRES\tAGE")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.ID, useOf(s), stateOf(s, now), expiryOf(s, now), duration.HumanDuration(now.Sub(list.Items[i].CreationTimestamp.Time)))
	}
	if count == 0 {
		fmt.Fprintln(streams.ErrOut, "No tokens. Make one: shoal token create")
		return nil
	}
	return table.Flush()
}

func useOf(s token.Stored) string {
	if s.SingleUse {
		return "single"
	}
	return "reusable"
}

func stateOf(s token.Stored, now time.Time) string {
	switch {
	case s.SingleUse && s.UsedBy != "":
		return "used by " + s.UsedBy
	case s.Expired(now):
		return "expired"
	}
	return "valid"
}

func expiryOf(s token.Stored, now time.Time) string {
	switch {
	case s.Expires.IsZero():
		return "never"
	case s.Expired(now):
		return duration.HumanDuration(now.Sub(s.Expires)) + " ago"
	}
	return "in " + duration.HumanDuration(s.Expires.Sub(now))
}

// TokenRevokeCmd is `shoal token revoke`.
type TokenRevokeCmd struct {
	tokenConnection

	ID []string `arg:"" help:"The token's id, or the whole token."`
}

// Help is the detail of `shoal token revoke --help`.
func (*TokenRevokeCmd) Help() string {
	return "Hosts that have joined with it stay; `shoal node forget` removes one.\n\n" + examples("shoal token revoke abcdef")
}

// Run deletes the tokens.
func (c *TokenRevokeCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	_, client, err := c.client(streams)
	if err != nil {
		return err
	}
	for _, text := range c.ID {
		id, _, _ := strings.Cut(text, ".")
		if !token.ValidID(id) {
			return fmt.Errorf("%q is not a token's id; see `shoal token ls`", id)
		}
		err := client.CoreV1().Secrets(token.Namespace).Delete(ctx, token.SecretName(id), metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no token %s; see `shoal token ls`", id)
		}
		if err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
		fmt.Fprintf(streams.Out, "token %s revoked\n", id)
	}
	return nil
}
