package agent

import (
	"context"
	"fmt"

	loader "github.com/containerd/containerd/v2/pkg/apparmor"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/sysctl"
	"k8s.io/kubernetes/pkg/security/apparmor"

	"shoal/agent/oci"
)

// Security is what pods may use of this host's security features.
type Security struct {
	SeccompDir     string   // profiles that pods name; default seccomp/ in DataDir
	SeccompDefault bool     // give pods that name no profile the runtime's
	UnsafeSysctls  []string // allowed beside the safe ones; they may end in *
}

// host is what the runner is told.
func (s Security) host() oci.Security {
	return oci.Security{SeccompDir: s.SeccompDir, SeccompDefault: s.SeccompDefault, AppArmor: loader.HostSupports()}
}

// podSecurity refuses pods that ask for what this host does not allow, or
// cannot enforce, with the kubelet's own handlers.
type podSecurity struct{ handlers []lifecycle.PodAdmitHandler }

// newPodSecurity allows the kubelet's safe sysctls and those of unsafe, which
// may be patterns that end in an asterisk.
func newPodSecurity(unsafe []string) (*podSecurity, error) {
	sysctls, err := sysctl.NewAllowlist(append(sysctl.SafeSysctlAllowlist(context.Background()), unsafe...))
	if err != nil {
		return nil, fmt.Errorf("allow unsafe sysctls: %w", err)
	}
	return &podSecurity{[]lifecycle.PodAdmitHandler{sysctls, lifecycle.NewAppArmorAdmitHandler(apparmor.NewValidator())}}, nil
}

// refuse gives the reason and the message of a pod's rejection, or nothing.
func (s *podSecurity) refuse(pod *v1.Pod) (reason, message string) {
	for _, h := range s.handlers {
		if got := h.Admit(context.Background(), &lifecycle.PodAdmitAttributes{Pod: pod}); !got.Admit {
			return got.Reason, got.Message
		}
	}
	return "", ""
}
