package kubectl

import (
	"github.com/spf13/cobra"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/annotate"
	"k8s.io/kubectl/pkg/cmd/apiresources"
	"k8s.io/kubectl/pkg/cmd/apply"
	"k8s.io/kubectl/pkg/cmd/attach"
	"k8s.io/kubectl/pkg/cmd/auth"
	"k8s.io/kubectl/pkg/cmd/autoscale"
	"k8s.io/kubectl/pkg/cmd/certificates"
	"k8s.io/kubectl/pkg/cmd/completion"
	"k8s.io/kubectl/pkg/cmd/cp"
	"k8s.io/kubectl/pkg/cmd/create"
	"k8s.io/kubectl/pkg/cmd/debug"
	deletion "k8s.io/kubectl/pkg/cmd/delete"
	"k8s.io/kubectl/pkg/cmd/describe"
	"k8s.io/kubectl/pkg/cmd/diff"
	"k8s.io/kubectl/pkg/cmd/drain"
	"k8s.io/kubectl/pkg/cmd/edit"
	"k8s.io/kubectl/pkg/cmd/events"
	"k8s.io/kubectl/pkg/cmd/exec"
	"k8s.io/kubectl/pkg/cmd/explain"
	"k8s.io/kubectl/pkg/cmd/expose"
	"k8s.io/kubectl/pkg/cmd/get"
	"k8s.io/kubectl/pkg/cmd/kustomize"
	"k8s.io/kubectl/pkg/cmd/label"
	"k8s.io/kubectl/pkg/cmd/logs"
	"k8s.io/kubectl/pkg/cmd/options"
	"k8s.io/kubectl/pkg/cmd/patch"
	"k8s.io/kubectl/pkg/cmd/portforward"
	"k8s.io/kubectl/pkg/cmd/replace"
	"k8s.io/kubectl/pkg/cmd/rollout"
	"k8s.io/kubectl/pkg/cmd/scale"
	"k8s.io/kubectl/pkg/cmd/set"
	"k8s.io/kubectl/pkg/cmd/taint"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/cmd/wait"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
)

// Groups of commands, in the order in which the top-level help shows them.
const (
	GroupDaemon    = "daemon"
	GroupBasics    = "basics"
	GroupWorkloads = "workloads"
	GroupDebug     = "debug"
	GroupObjects   = "objects"
	GroupCluster   = "cluster"
	GroupSettings  = "settings"
)

// A Verb is one of kubectl's commands under shoal's name.
type Verb struct {
	Name    string
	Group   string
	Help    string // one line for the list of commands
	Example string // one command line, without leading blanks

	build func(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command
}

// plain adapts the constructors that take only a factory and streams, which
// are most of them, whatever interface of the factory they ask for.
type plain = func(cmdutil.Factory, genericiooptions.IOStreams) *cobra.Command

// named adapts the constructors that also want the program's name.
func named(build func(string, cmdutil.Factory, genericiooptions.IOStreams) *cobra.Command) plain {
	return func(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
		return build(ProgramName, f, streams)
	}
}

// completingNames adds completion of resource types and names, which upstream
// attaches outside the constructor too because of an import cycle.
func completingNames(build plain) plain {
	return func(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
		cmd := build(f, streams)
		cmd.ValidArgsFunction = utilcomp.ResourceTypeAndNameCompletionFunc(f)
		return cmd
	}
}

// Verbs lists every verb in the order of the help.
var Verbs = []Verb{
	{"get", GroupBasics, "Show one or many objects", "shoal get pods -o wide",
		completingNames(named(get.NewCmdGet))},
	{"describe", GroupBasics, "Show an object in detail, with its events", "shoal describe deployment hw",
		named(describe.NewCmdDescribe)},
	{"create", GroupBasics, "Create an object from a file or from flags", "shoal create -f hello.yaml",
		create.NewCmdCreate},
	{"apply", GroupBasics, "Make objects equal to a manifest", "shoal apply -f hello.yaml",
		named(apply.NewCmdApply)},
	{"expose", GroupBasics, "Make a service for a workload", "shoal expose deployment hw --type=NodePort --port=80",
		expose.NewCmdExposeService},
	{"delete", GroupBasics, "Delete objects", "shoal delete deployment hw",
		deletion.NewCmdDelete},

	{"scale", GroupWorkloads, "Set the number of replicas", "shoal scale deployment hw --replicas=3",
		scale.NewCmdScale},
	{"rollout", GroupWorkloads, "Watch, undo or restart a rollout", "shoal rollout status deployment hw",
		named(rollout.NewCmdRollout)},
	{"set", GroupWorkloads, "Change an image, environment or resources", "shoal set image deployment/hw hello=hello:v2",
		set.NewCmdSet},
	{"autoscale", GroupWorkloads, "Scale a workload by its load", "shoal autoscale deployment hw --min=2 --max=10",
		autoscale.NewCmdAutoscale},

	{"logs", GroupDebug, "Print the logs of a container", "shoal logs deploy/hw -f",
		logs.NewCmdLogs},
	{"exec", GroupDebug, "Run a command in a container", "shoal exec -it deploy/hw -- sh",
		exec.NewCmdExec},
	{"attach", GroupDebug, "Attach to a running container", "shoal attach deploy/hw",
		attach.NewCmdAttach},
	{"cp", GroupDebug, "Copy files to and from containers", "shoal cp ./page.html hw-0:/www/page.html",
		cp.NewCmdCp},
	{"port-forward", GroupDebug, "Forward local ports to a pod", "shoal port-forward deploy/hw 8080:80",
		portforward.NewCmdPortForward},
	{"debug", GroupDebug, "Debug a workload or a node with an extra container", "shoal debug hw-0 --image=busybox -it",
		completingNames(func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return debug.NewCmdDebug(f, s)
		})},
	{"events", GroupDebug, "List events", "shoal events --for deployment/hw",
		func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command { return events.NewCmdEvents(f, s) }},
	{"top", GroupDebug, "Show the use of CPU and memory", "shoal top pods",
		newTop},

	{"edit", GroupObjects, "Edit an object in your editor", "shoal edit deployment hw",
		edit.NewCmdEdit},
	{"diff", GroupObjects, "Show what apply would change", "shoal diff -f hello.yaml",
		diff.NewCmdDiff},
	{"patch", GroupObjects, "Change fields of an object", `shoal patch deployment hw -p '{"spec":{"paused":true}}'`,
		patch.NewCmdPatch},
	{"replace", GroupObjects, "Replace objects by a manifest", "shoal replace -f hello.yaml",
		replace.NewCmdReplace},
	{"label", GroupObjects, "Change the labels of objects", "shoal label pods -l app=hw tier=web",
		label.NewCmdLabel},
	{"annotate", GroupObjects, "Change the annotations of objects", "shoal annotate deployment hw owner=me",
		named(annotate.NewCmdAnnotate)},
	{"wait", GroupObjects, "Wait for a condition of objects", "shoal wait --for=condition=Available deployment/hw",
		func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command { return wait.NewCmdWait(f, s) }},
	{"explain", GroupObjects, "Explain the fields of a kind", "shoal explain deployment.spec.strategy",
		named(explain.NewCmdExplain)},
	{"kustomize", GroupObjects, "Build manifests from a kustomization", "shoal kustomize ./overlays/prod",
		func(_ cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return kustomize.NewCmdKustomize(s)
		}},

	{"cordon", GroupCluster, "Keep new pods off a node", "shoal cordon host1",
		drain.NewCmdCordon},
	{"uncordon", GroupCluster, "Let new pods on a node again", "shoal uncordon host1",
		drain.NewCmdUncordon},
	{"drain", GroupCluster, "Move the pods off a node", "shoal drain host1 --ignore-daemonsets",
		drain.NewCmdDrain},
	{"taint", GroupCluster, "Change the taints of nodes", "shoal taint nodes host1 dedicated=db:NoSchedule",
		taint.NewCmdTaint},
	{"auth", GroupCluster, "Ask what a user may do", "shoal auth can-i create pods",
		auth.NewCmdAuth},
	{"certificate", GroupCluster, "Approve or deny certificate requests", "shoal certificate approve my-request",
		func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return certificates.NewCmdCertificate(f, s)
		}},
	{"cluster-info", GroupCluster, "Show the addresses of the cluster", "shoal cluster-info",
		newClusterInfo},
	{"api-resources", GroupCluster, "List the kinds the API serves", "shoal api-resources",
		func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return apiresources.NewCmdAPIResources(f, s)
		}},
	{"api-versions", GroupCluster, "List the group versions the API serves", "shoal api-versions",
		func(f cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return apiresources.NewCmdAPIVersions(f, s)
		}},
	{"proxy", GroupCluster, "Serve the API on a local port", "shoal proxy --port=8001",
		newProxy},

	{"config", GroupSettings, "Show and change kubeconfig files", "shoal config get-contexts",
		newConfig},
	{"completion", GroupSettings, "Print completion code for your shell", "source <(shoal completion bash)",
		func(_ cmdutil.Factory, s genericiooptions.IOStreams) *cobra.Command {
			return completion.NewCmdCompletion(s.Out, "")
		}},
	{"version", GroupSettings, "Show the versions of shoal and of the API", "shoal version",
		newVersion},
	{"options", GroupSettings, "List the flags every command has", "shoal options",
		newOptions},
}

// Find returns the verb of that name, or nil.
func Find(name string) *Verb {
	for i := range Verbs {
		if Verbs[i].Name == name {
			return &Verbs[i]
		}
	}
	return nil
}

func newOptions(_ cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	return options.NewCmdOptions(streams.Out)
}
