package prober

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"k8s.io/component-base/version"
	"k8s.io/kubernetes/pkg/probe"
)

// askGRPC calls the health service (grpc.health.v1). Upstream's prober does the
// same, in the same words; its calls cannot be ended before their timeout, which
// would hold up the daemon's own end.
func askGRPC(ctx context.Context, address, service string, timeout time.Duration) answer {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v := version.Get()
	conn, err := grpc.DialContext(ctx, address, //nolint:staticcheck // NewClient would not tell a refused connection from a failed call
		grpc.WithUserAgent(fmt.Sprintf("kube-probe/%s.%s", v.Major, v.Minor)),
		grpc.WithBlock(), //nolint:staticcheck // as above
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return probe.ProbeDialer().DialContext(ctx, "tcp", address)
		}))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return answer{detail: fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", address, timeout, err)}
	case err != nil:
		return answer{detail: fmt.Sprintf("error: failed to connect service at %q: %+v", address, err)}
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return answer{detail: grpcFailure(err, timeout)}
	}
	if s := resp.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return answer{detail: fmt.Sprintf("service unhealthy (responded with %q)", s.String())}
	}
	return answer{ok: true, detail: "service healthy"}
}

func grpcFailure(err error, timeout time.Duration) string {
	switch s := status.Convert(err); s.Code() {
	case codes.Unimplemented:
		return "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + s.Message()
	case codes.DeadlineExceeded:
		return fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
	}
	return fmt.Sprintf("error: health rpc probe failed: %+v", err)
}
