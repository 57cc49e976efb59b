package cli

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/kubernetes/scheme"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// RunCmd is `shoal run`: a deployment from an image, or with --stdin one pod that
// the terminal is attached to.
type RunCmd struct {
	Namespaced

	Name            string   `arg:"" help:"The name of the deployment."`
	Args            []string `arg:"" optional:"" help:"Arguments of the container, after --."`
	Image           string   `required:"" placeholder:"NAME" help:"The image to run."`
	Port            int32    `placeholder:"PORT" help:"The port the container listens on."`
	Replicas        int32    `short:"r" default:"1" help:"How many pods to run."`
	Env             []string `placeholder:"KEY=VALUE" sep:"none" help:"An environment variable; may be repeated."`
	Labels          []string `short:"l" placeholder:"KEY=VALUE" help:"Labels besides app=NAME."`
	Stdin           bool     `short:"i" help:"Run one pod instead of a deployment, once, with this command's input and output; the exit code is the container's."`
	TTY             bool     `short:"t" name:"tty" help:"With --stdin: give it a terminal."`
	Rm              bool     `name:"rm" help:"With --stdin: delete the pod when it has ended."`
	Command         bool     `help:"Use the arguments as the container's command instead of as its arguments."`
	ImagePullPolicy string   `enum:"Always,IfNotPresent,Never" default:"IfNotPresent" help:"When to pull the image: ${enum}."`
	DryRun          string   `enum:"none,client,server" default:"none" help:"Only show what would be created, made here (client) or by the server: ${enum}."`
	Output          string   `short:"o" placeholder:"FORMAT" help:"Output format: json, yaml, name, jsonpath=..., go-template=..."`
}

// Help is the detail of `shoal run --help`.
func (*RunCmd) Help() string {
	return examples(
		"# A deployment of one pod that listens on port 80",
		"shoal run hw --image=hello --port=80",
		"# Three pods with an environment variable and arguments",
		"shoal run web --image=registry.example/web:v2 --replicas=3 --env=MODE=fast -- --verbose",
		"# Another command than the image's own",
		"shoal run sleeper --image=hello --command -- sh -c 'sleep 3600'",
		"# A shell in a pod of its own, which goes with it",
		"shoal run box --image=busybox -it --rm -- sh",
		"# The manifest, without creating anything",
		"shoal run hw --image=hello --dry-run=client -o yaml")
}

// Run creates the deployment and prints its name.
func (r *RunCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	if r.Stdin || r.TTY || r.Rm {
		return r.attached(ctx, streams)
	}
	namespace, err := r.namespace(streams)
	if err != nil {
		return err
	}
	deployment, err := r.deployment(namespace)
	if err != nil {
		return err
	}
	printer, err := r.printer()
	if err != nil {
		return err
	}
	if r.DryRun != "client" {
		if deployment, err = r.create(ctx, streams, deployment); err != nil {
			return err
		}
	}
	return printer.PrintObj(deployment, streams.Out)
}

func (r *RunCmd) create(ctx context.Context, streams genericiooptions.IOStreams, deployment *appsv1.Deployment) (*appsv1.Deployment, error) {
	_, client, err := r.client(streams)
	if err != nil {
		return nil, err
	}
	options := metav1.CreateOptions{FieldManager: "shoal-run", FieldValidation: metav1.FieldValidationStrict}
	if r.DryRun == "server" {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return client.AppsV1().Deployments(deployment.Namespace).Create(ctx, deployment, options)
}

// deployment is the manifest the flags describe.
func (r *RunCmd) deployment(namespace string) (*appsv1.Deployment, error) {
	env, err := parseEnv(r.Env)
	if err != nil {
		return nil, err
	}
	labels, err := r.labels()
	if err != nil {
		return nil, err
	}
	container := corev1.Container{
		Name: containerName(r.Image), Image: r.Image, Env: env, Args: r.Args,
		ImagePullPolicy: corev1.PullPolicy(r.ImagePullPolicy),
	}
	if r.Command {
		if len(r.Args) == 0 {
			return nil, fmt.Errorf("--command needs the command itself after --, for example: -- sh -c 'echo hello'")
		}
		container.Command, container.Args = r.Args, nil
	}
	if r.Port != 0 {
		container.Ports = []corev1.ContainerPort{{ContainerPort: r.Port}}
	}
	selector := map[string]string{"app": r.Name}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Namespace: namespace, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &r.Replicas,
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
			},
		},
	}, nil
}

func (r *RunCmd) labels() (map[string]string, error) {
	labels := map[string]string{"app": r.Name}
	for _, pair := range r.Labels {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("invalid label %q: must be KEY=VALUE", pair)
		}
		if key == "app" {
			return nil, fmt.Errorf("invalid label %q: app is the name of the deployment and selects its pods", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

func (r *RunCmd) printer() (printers.ResourcePrinter, error) {
	flags := genericclioptions.NewPrintFlags("created").WithTypeSetter(scheme.Scheme)
	flags.OutputFormat = &r.Output
	strategy := map[string]cmdutil.DryRunStrategy{
		"none": cmdutil.DryRunNone, "client": cmdutil.DryRunClient, "server": cmdutil.DryRunServer}[r.DryRun]
	return cmdutil.PrintFlagsWithDryRunStrategy(flags, strategy).ToPrinter()
}

func parseEnv(pairs []string) ([]corev1.EnvVar, error) {
	var env []corev1.EnvVar
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("invalid environment variable %q: must be KEY=VALUE", pair)
		}
		env = append(env, corev1.EnvVar{Name: key, Value: value})
	}
	return env, nil
}

// containerName is the last part of an image's name, without tag or digest,
// made into a valid name.
func containerName(image string) string {
	name := image[strings.LastIndex(image, "/")+1:]
	if i := strings.IndexAny(name, "@:"); i >= 0 {
		name = name[:i]
	}
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(name))
	if name = strings.Trim(name, "-"); name == "" {
		return "main"
	}
	return name
}
