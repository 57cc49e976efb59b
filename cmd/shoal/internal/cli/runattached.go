package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"shoal/cmd/shoal/internal/kubectl"
)

// attached runs one pod as kubectl does, and stays until it has ended. Why the pod
// waits is told meanwhile, which kubectl does not.
func (r *RunCmd) attached(ctx context.Context, streams genericiooptions.IOStreams) error {
	args, err := r.podArgs()
	if err != nil {
		return err
	}
	namespace, err := r.namespace(streams)
	if err != nil {
		return err
	}
	_, client, err := r.client(streams)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { tellWaiting(ctx, client, namespace, r.Name, streams.ErrOut) })
	defer telling.Wait()
	defer stop()
	flags := r.flags(streams)
	flags.Namespace = &r.Namespace
	return kubectl.RunPod(flags, streams, args)
}

// podArgs are the arguments of kubectl's run. What only a deployment has is
// refused.
func (r *RunCmd) podArgs() ([]string, error) {
	switch {
	case !r.Stdin:
		return nil, errors.New("--tty and --rm are for a pod that is attached to; add --stdin (-i)")
	case r.Replicas != 1:
		return nil, errors.New("--replicas is for a deployment, and --stdin runs one pod; leave one of them out")
	case r.DryRun != "none" || r.Output != "":
		return nil, errors.New("--dry-run and --output are for a deployment, and --stdin attaches to a pod; leave one of them out")
	}
	labels, err := r.labels()
	if err != nil {
		return nil, err
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	args := []string{
		r.Name, "--stdin", "--image=" + r.Image, "--labels=" + strings.Join(pairs, ","),
		"--image-pull-policy=" + r.ImagePullPolicy, "--restart=" + string(corev1.RestartPolicyNever),
		"--tty=" + strconv.FormatBool(r.TTY), "--rm=" + strconv.FormatBool(r.Rm), "--command=" + strconv.FormatBool(r.Command),
	}
	for _, pair := range r.Env {
		args = append(args, "--env="+pair)
	}
	if r.Port != 0 {
		args = append(args, "--port="+strconv.Itoa(int(r.Port)))
	}
	if len(r.Args) > 0 {
		args = append(append(args, "--"), r.Args...)
	}
	return args, nil
}
