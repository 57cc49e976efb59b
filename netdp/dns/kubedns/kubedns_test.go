package kubedns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/api"
	"shoal/api/apitest"
)

var usual = netip.MustParseAddr("10.0.0.10")

// TestKeeper, on a real API server: made, made anew, elsewhere where the address
// is taken, and left alone where it is somebody else's.
func TestKeeper(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	peer, err := apitest.Start(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := peer.Stop(); err != nil {
			t.Error(err)
		}
	}()
	services := peer.Client.CoreV1().Services(Namespace)
	k := New(peer.Client, api.DefaultServiceCIDR, slog.New(slog.DiscardHandler))
	if k.Address() != usual {
		t.Errorf("before all it is at %s", k.Address())
	}
	if err := k.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	svc, err := services.Get(ctx, Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if svc.Spec.ClusterIP != usual.String() || len(svc.Spec.Ports) != 2 || len(svc.Spec.Selector) != 0 {
		t.Errorf("the service is %v", svc.Spec)
	}

	heard := make(chan netip.Addr, 8)
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- k.Run(running, peer.Informers().Core().V1().Services().Informer(), func(a netip.Addr) { heard <- a })
	}()
	if a := <-heard; a != usual {
		t.Errorf("told %s", a)
	}
	t.Run("it comes back", func(t *testing.T) {
		if err := services.Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		within(t, func() error {
			now, err := services.Get(ctx, Name, metav1.GetOptions{})
			if err == nil && now.UID == svc.UID {
				err = errors.New("it is the old one")
			}
			return err
		})
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Run("another service has the address", func(t *testing.T) {
		if err := services.Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		taker := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "early"}, Spec: corev1.ServiceSpec{ClusterIP: usual.String(), Ports: []corev1.ServicePort{{Port: 1}}}}
		if _, err := peer.Client.CoreV1().Services("default").Create(ctx, taker, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		k := New(peer.Client, api.DefaultServiceCIDR, slog.New(slog.DiscardHandler))
		if err := k.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		now, err := services.Get(ctx, Name, metav1.GetOptions{})
		if err != nil || now.Spec.ClusterIP != k.Address().String() || k.Address() == usual {
			t.Errorf("pods are told %s, the service has %v, %v", k.Address(), now.Spec, err)
		}
		events, err := peer.Client.CoreV1().Events(Namespace).List(ctx, metav1.ListOptions{})
		if err != nil || len(events.Items) != 1 || !strings.Contains(events.Items[0].Message, "default/early") {
			t.Errorf("events: %v, %v", events, err)
		}
	})
	t.Run("somebody else's", func(t *testing.T) {
		if err := services.Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		own := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: Name}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"k8s-app": "coredns"}, Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}}}}
		made, err := services.Create(ctx, own, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		k := New(peer.Client, api.DefaultServiceCIDR, slog.New(slog.DiscardHandler))
		if err := k.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		if now, err := services.Get(ctx, Name, metav1.GetOptions{}); err != nil || now.ResourceVersion != made.ResourceVersion || k.Address().String() != made.Spec.ClusterIP {
			t.Errorf("it is %v now, pods are told %s, %v", now, k.Address(), err)
		}
	})
}

func within(t *testing.T, check func() error) {
	t.Helper()
	err := fmt.Errorf("it was never looked at")
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
