package kubectl

import (
	"fmt"

	"github.com/spf13/cobra"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd/clusterinfo"
	cmdconfig "k8s.io/kubectl/pkg/cmd/config"
	"k8s.io/kubectl/pkg/cmd/proxy"
	"k8s.io/kubectl/pkg/cmd/run"
	"k8s.io/kubectl/pkg/cmd/top"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/cmd/version"
)

// Version is shoal's own version; the program's start sets it once.
var Version string

// newVersion prints shoal's version above kubectl's text. The structured forms
// stay exactly kubectl's.
func newVersion(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	cmd := version.NewCmdVersion(f, streams)
	run := cmd.Run
	cmd.Run = func(cmd *cobra.Command, args []string) {
		if cmdutil.GetFlagString(cmd, "output") == "" {
			fmt.Fprintf(streams.Out, "Shoal Version: %s\n", Version)
		}
		run(cmd, args)
	}
	return cmd
}

// newConfig lets `shoal config view` show the cluster the other verbs talk to,
// also when that comes from the daemon's own kubeconfig.
func newConfig(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	options := clientcmd.NewDefaultPathOptions()
	if path := Search().Path; path != "" {
		options.LoadingRules.ExplicitPath = path
	}
	streams.ErrOut = advising{streams.ErrOut}
	return cmdconfig.NewCmdConfig(f, options, streams)
}

func newProxy(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	return proxy.NewCmdProxy(f, streams)
}

func newClusterInfo(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	streams.Out = advising{streams.Out}
	return clusterinfo.NewCmdClusterInfo(f, streams)
}

// RunPod is kubectl's run, which makes one pod and attaches to it; shoal's own run
// makes deployments, so it is no verb. flags say which cluster and namespace.
func RunPod(flags *genericclioptions.ConfigFlags, streams genericiooptions.IOStreams, args []string) error {
	root := &cobra.Command{Use: ProgramName, SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(run.NewCmdRun(cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(flags)), streams))
	root.SetArgs(append([]string{"run"}, args...))
	return cli.RunNoErrOutput(root)
}

// newTop says where the figures come from here: upstream's text asks for an
// add-on that each peer makes superfluous.
func newTop(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	cmd := top.NewCmdTop(f, streams)
	cmd.Long = `Show what nodes and pods use of CPU and memory.

Every node measures its pods and itself, and every API server serves these figures:
nothing has to be installed. A figure of CPU is an average of the last seconds, so a
pod is told of some seconds after its start.

The figures are those an autoscaler works with. They are no replacement for
monitoring, and may differ from those of tools such as top.`
	return cmd
}
