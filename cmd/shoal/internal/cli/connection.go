package cli

import (
	"fmt"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/cmd/shoal/internal/kubectl"
)

// Connection holds the flags that say which cluster, as whom and in which
// namespace; they are kubectl's.
type Connection struct {
	Kubeconfig string `group:"connection" placeholder:"FILE" help:"Path to the kubeconfig file to use."`
	Context    string `group:"connection" placeholder:"NAME" help:"The context of the kubeconfig to use."`
	Cluster    string `group:"connection" placeholder:"NAME" help:"The cluster of the kubeconfig to use."`
	User       string `group:"connection" placeholder:"NAME" help:"The user of the kubeconfig to use."`
	Server     string `group:"connection" short:"s" placeholder:"URL" help:"The address of the API server."`
	Token      string `group:"connection" placeholder:"TOKEN" help:"Bearer token to authenticate with."`

	CertificateAuthority  string   `group:"connection" placeholder:"FILE" help:"The certificate authority of the API server."`
	ClientCertificate     string   `group:"connection" placeholder:"FILE" help:"The client certificate to authenticate with."`
	ClientKey             string   `group:"connection" placeholder:"FILE" help:"The key of the client certificate."`
	InsecureSkipTLSVerify bool     `group:"connection" name:"insecure-skip-tls-verify" help:"Do not check the server's certificate. Insecure."`
	RequestTimeout        string   `group:"connection" placeholder:"DURATION" default:"0" help:"How long to wait for one request; 0 means for ever."`
	As                    string   `group:"connection" placeholder:"USER" help:"User to impersonate."`
	AsGroup               []string `group:"connection" placeholder:"GROUP" help:"Group to impersonate; may be repeated."`
}

// Namespaced is Connection with a namespace.
type Namespaced struct {
	Connection
	Namespace string `short:"n" placeholder:"NAME" help:"The namespace; the context's if empty."`
}

// flags returns the same choice as kubectl's own connection flags.
func (c *Connection) flags(streams genericiooptions.IOStreams) *genericclioptions.ConfigFlags {
	flags := kubectl.NewConfigFlags(streams)
	for target, value := range map[**string]*string{
		&flags.KubeConfig: &c.Kubeconfig, &flags.Context: &c.Context, &flags.ClusterName: &c.Cluster,
		&flags.AuthInfoName: &c.User, &flags.APIServer: &c.Server, &flags.BearerToken: &c.Token,
		&flags.CAFile: &c.CertificateAuthority, &flags.CertFile: &c.ClientCertificate, &flags.KeyFile: &c.ClientKey,
		&flags.Timeout: &c.RequestTimeout, &flags.Impersonate: &c.As,
	} {
		*target = value
	}
	flags.Insecure = &c.InsecureSkipTLSVerify
	flags.ImpersonateGroup = &c.AsGroup
	kubectl.UseSearchedKubeconfig(flags)
	return flags
}

// client connects to the chosen cluster.
func (c *Connection) client(streams genericiooptions.IOStreams) (*rest.Config, kubernetes.Interface, error) {
	config, err := c.flags(streams).ToRESTConfig()
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	return config, client, nil
}

// namespace is the chosen one, or the context's.
func (n *Namespaced) namespace(streams genericiooptions.IOStreams) (string, error) {
	flags := n.flags(streams)
	flags.Namespace = &n.Namespace
	namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}
