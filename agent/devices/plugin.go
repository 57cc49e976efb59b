package devices

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// plugin is one process that serves one resource.
type plugin struct {
	resource string
	socket   string
	conn     *grpc.ClientConn
	client   api.DevicePluginClient
	options  *api.DevicePluginOptions
	devices  map[string]*api.Device // as last told; nil before; guarded by Plugins.mu
}

// maxPlugins bounds the processes that serve at once, so that one which
// registers in a loop cannot take the host's memory.
const maxPlugins = 256

// Register takes a plugin that says it is there. It is the API's call.
func (p *Plugins) Register(ctx context.Context, r *api.RegisterRequest) (*api.Empty, error) {
	one, err := p.register(ctx, r)
	if err != nil {
		p.o.Logger.Warn("a device plugin was refused", "resource", r.ResourceName, "endpoint", r.Endpoint, "error", err)
		return nil, err
	}
	p.o.Logger.Info("device plugin registered", "resource", one.resource, "socket", one.socket)
	return &api.Empty{}, nil
}

func (p *Plugins) register(ctx context.Context, r *api.RegisterRequest) (*plugin, error) {
	switch {
	case !slices.Contains(api.SupportedVersions[:], r.Version):
		return nil, status.Errorf(codes.InvalidArgument, "requested API version %q is not supported by kubelet. Supported version is %q", r.Version, api.SupportedVersions)
	case !helper.IsExtendedResourceName(v1.ResourceName(r.ResourceName)):
		return nil, status.Errorf(codes.InvalidArgument, "the ResourceName %q is invalid", r.ResourceName)
	case r.Endpoint == "" || filepath.Base(r.Endpoint) != r.Endpoint || r.Endpoint == socketName:
		return nil, status.Errorf(codes.InvalidArgument, "the endpoint %q must be the name of the plugin's socket in %s", r.Endpoint, p.o.Dir)
	}
	one, err := connect(ctx, r.ResourceName, filepath.Join(p.o.Dir, r.Endpoint))
	if err != nil {
		return nil, err
	}
	if err := p.add(one); err != nil {
		_ = one.conn.Close()
		return nil, err
	}
	return one, nil
}

func connect(ctx context.Context, resource, socket string) (*plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+resource,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to device plugin: %w", err)
	}
	one := &plugin{resource: resource, socket: socket, conn: conn, client: api.NewDevicePluginClient(conn)}
	if one.options, err = one.client.GetDevicePluginOptions(ctx, &api.Empty{}, grpc.WaitForReady(true)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("failed to get device plugin options: %w", err)
	}
	return one, nil
}

// add has a plugin asked from now on. One that comes back on the same socket
// takes the place of what it was, whose end may not have been seen yet.
func (p *Plugins) add(one *plugin) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return status.Error(codes.Unavailable, "the daemon is stopping")
	}
	count := 0
	for _, o := range p.resources {
		count += len(o.plugins)
	}
	if count >= maxPlugins {
		return status.Errorf(codes.ResourceExhausted, "%d device plugins are registered already", count)
	}
	o := p.resources[one.resource]
	if o == nil {
		o = &offer{}
		p.resources[one.resource] = o
		if err := p.save(); err != nil {
			p.o.Logger.Warn("a new resource could not be noted on disk; its capacity stays as it is if the daemon restarts before the plugin does", "resource", one.resource, "error", err)
		}
	}
	o.plugins = slices.DeleteFunc(o.plugins, func(old *plugin) bool {
		if old.socket == one.socket {
			_ = old.conn.Close()
			return true
		}
		return false
	})
	o.plugins = append(o.plugins, one)
	o.prestart = one.options.GetPreStartRequired()
	p.watch.Go(func() { p.follow(one) })
	return nil
}

// follow reads what the plugin tells until it goes or its connection is closed.
func (p *Plugins) follow(one *plugin) {
	defer one.conn.Close()
	// The connection's end is this call's: a plugin may be silent for ever.
	stream, err := one.client.ListAndWatch(context.Background(), &api.Empty{})
	for err == nil {
		var told *api.ListAndWatchResponse
		if told, err = stream.Recv(); err == nil {
			p.told(one, told.Devices)
		}
	}
	p.lost(one, err)
}

// told keeps what a plugin has now. Only the newest of a resource's counts.
func (p *Plugins) told(one *plugin, list []*api.Device) {
	devices := make(map[string]*api.Device, len(list))
	for _, d := range list {
		devices[d.ID] = d
	}
	p.change(one.resource, func(o *offer) {
		one.devices = devices
		if len(o.plugins) > 0 && o.plugins[len(o.plugins)-1] == one {
			o.devices = devices
		}
	})
}

// lost takes a plugin out. An older one of the same resource is asked again.
func (p *Plugins) lost(one *plugin, err error) {
	p.change(one.resource, func(o *offer) {
		at := slices.Index(o.plugins, one)
		if at < 0 {
			return // replaced
		}
		o.plugins = slices.Delete(o.plugins, at, at+1)
		if len(o.plugins) == 0 {
			o.gone = time.Now()
		} else if last := o.plugins[len(o.plugins)-1]; last.devices != nil {
			o.devices, o.prestart = last.devices, last.options.GetPreStartRequired()
		}
		if !p.closed {
			p.o.Logger.Warn("device plugin is gone; its devices count as unhealthy until it registers again", "resource", one.resource, "error", err)
		}
	})
}

// change does something to an offer and tells who asked to hear of it.
func (p *Plugins) change(name string, what func(*offer)) {
	p.mu.Lock()
	o := p.resources[name]
	before := o.healthy()
	what(o)
	after := o.healthy()
	pods := p.held.users(name, before.SymmetricDifference(after))
	p.mu.Unlock()
	p.o.Changed()
	for _, uid := range sets.List(pods) {
		p.o.Health(types.UID(uid))
	}
}
