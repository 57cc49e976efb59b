//go:build never

package main

import (
	_ "github.com/alecthomas/kong"
	_ "github.com/cilium/ebpf"
	_ "github.com/containerd/containerd/v2/client"
	_ "github.com/dgraph-io/badger/v4"
	_ "github.com/vishvananda/netlink"
	_ "k8s.io/kubectl/pkg/cmd"
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	_ "k8s.io/kubernetes/pkg/kubelet/prober"
)

import (
	_ "github.com/containerd/log"
	_ "github.com/containerd/typeurl/v2"
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/opencontainers/image-spec/specs-go/v1"
	_ "github.com/opencontainers/runtime-spec/specs-go"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "k8s.io/apiserver/pkg/storage/testing"
	_ "k8s.io/cri-streaming/pkg/streaming"
	_ "k8s.io/endpointslice"
	_ "pgregory.net/rapid"
	_ "github.com/containerd/containerd/v2/core/remotes/docker"
	_ "github.com/containerd/containerd/v2/contrib/seccomp"
	_ "github.com/opencontainers/runtime-spec/specs-go/features"
	_ "github.com/moby/sys/mountinfo"
	_ "github.com/containerd/cgroups/v3"
	_ "github.com/containerd/fifo"
)
