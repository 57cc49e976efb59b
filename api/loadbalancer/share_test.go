package loadbalancer

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/api/loadbalancer/v1alpha1"
)

// sharer asks for the address with a key and a port; age orders them.
func sharer(name, key string, port int32, age int, edit ...func(*corev1.Service)) *corev1.Service {
	return service(append([]func(*corev1.Service){func(s *corev1.Service) {
		s.Name, s.UID = name, types.UID("uid-"+name)
		s.CreationTimestamp = metav1.NewTime(time.Unix(1_000_000-int64(age), 0))
		s.Annotations = map[string]string{v1alpha1.WantedAddresses: address.String(), v1alpha1.SharingKey: key}
		s.Spec.Ports = []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}}
	}}, edit...)...)
}

func having(s *corev1.Service) { ending(s); s.DeletionTimestamp, s.Finalizers = nil, nil }

// planned is the address a service gets beside others, or why it does not.
func (c *Controller) planned(t *testing.T, svc *corev1.Service) string {
	t.Helper()
	choices, err := plan(svc, nil, c.cell(svc))
	if err != nil {
		t.Fatal(err)
	}
	if choices[0].keep.IsValid() {
		return choices[0].keep.String()
	}
	return choices[0].none.message
}

func TestServicesShareAnAddress(t *testing.T) {
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	udp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }
	metallb := func(s *corev1.Service) {
		s.Annotations = map[string]string{"metallb.io/loadBalancerIPs": address.String(), "metallb.io/allow-shared-ip": "k"}
	}
	for name, test := range map[string]struct {
		holder, svc *corev1.Service
		others      []*corev1.Service
		want        string
	}{
		"other port":               {sharer("front", "k", 80, 9), sharer("web", "k", 443, 0), nil, "192.0.2.1"},
		"other protocol":           {sharer("front", "k", 53, 9), sharer("web", "k", 53, 0, udp), nil, "192.0.2.1"},
		"as MetalLB has it":        {sharer("front", "k", 80, 9), sharer("web", "", 443, 0, metallb), nil, "192.0.2.1"},
		"the holder is younger":    {sharer("front", "k", 80, 0), sharer("web", "k", 443, 9), nil, "192.0.2.1"},
		"same port":                {sharer("front", "k", 80, 9), sharer("web", "k", 80, 0), nil, "service default/front has port 80/TCP too"},
		"other key":                {sharer("front", "j", 80, 9), sharer("web", "k", 443, 0), nil, `it has not the sharing key "k"`},
		"no key":                   {sharer("front", "k", 80, 9), sharer("web", "", 443, 0), nil, "annotation shoal.dev/sharing-key"},
		"the holder has none":      {sharer("front", "", 80, 9), sharer("web", "k", 443, 0), nil, "it has not the sharing key"},
		"local pods":               {sharer("front", "k", 80, 9), sharer("web", "k", 443, 0, local), nil, "externalTrafficPolicy Local"},
		"an elder has the port":    {sharer("front", "k", 80, 9), sharer("web", "k", 443, 0), []*corev1.Service{sharer("elder", "k", 443, 5, having)}, "service default/elder has port 443/TCP too"},
		"a younger wants the port": {sharer("front", "k", 80, 9), sharer("web", "k", 443, 5), []*corev1.Service{sharer("younger", "k", 443, 0)}, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := still(t, append(test.others, test.holder, test.svc)...)
			c.take1(t, owner(test.holder))
			if got := c.planned(t, test.svc); !strings.Contains(got, test.want) || (test.want == "192.0.2.1") != (got == test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			if to, wait := c.lost(sharerHaving(test.svc)); wait == (test.want == "192.0.2.1") {
				t.Errorf("with the address in its status: lost to %q, waits %t", to, wait)
			}
		})
	}
}

func sharerHaving(s *corev1.Service) *corev1.Service {
	s = s.DeepCopy()
	having(s)
	return s
}

// TestASharedAddressIsInherited: by the eldest who has it, in place of nobody.
func TestASharedAddressIsInherited(t *testing.T) {
	holder, heir := sharer("front", "k", 80, 9, having), sharer("web", "k", 443, 5, having)
	c := still(t, holder, sharer("young", "k", 22, 1, having), heir, sharer("waits", "k", 443, 8))
	c.take1(t, owner(holder))
	if err := c.services.Delete(holder); err != nil {
		t.Fatal(err)
	}
	c.serviceDeleted(holder)
	c.syncs(t, "default/front")
	if claim, _ := c.o.Claims.Claim(address); claim.Owner != owner(heir) {
		t.Errorf("the claim is %+v", claim)
	}
	if got := c.planned(t, sharer("young", "k", 22, 1, having)); got != address.String() {
		t.Errorf("another that shares it: %s", got)
	}
}

// TestASharerKeepsItsAddressWhenTheHolderGoes: until the claim is handed on, however
// long that takes, and against one that waits for it.
func TestASharerKeepsItsAddressWhenTheHolderGoes(t *testing.T) {
	holder, keeps, waits := sharer("front", "k", 80, 9, having), sharer("web", "k", 443, 1, having), sharer("waits", "k", 443, 8)
	c := still(t, keeps, waits)
	c.take1(t, owner(holder))
	if to, wait := c.lost(keeps); to != "" || wait {
		t.Errorf("lost to %q, waits %t", to, wait)
	}
	if got := c.planned(t, keeps); got != address.String() {
		t.Errorf("it keeps %s", got)
	}
	if got := c.planned(t, waits); !strings.Contains(got, "service default/web has port 443/TCP too") {
		t.Errorf("the elder that waited: %s", got)
	}
	if err := c.services.Add(holder); err != nil {
		t.Fatal(err)
	}
	if got := c.planned(t, waits); !strings.Contains(got, "service default/web has port 443/TCP too") {
		t.Errorf("the elder that waited, beside the holder: %s", got)
	}
	if err := c.o.Claims.Free(address); err != nil {
		t.Fatal(err)
	}
	if got := c.planned(t, waits); !strings.Contains(got, "service default/web has port 443/TCP too") {
		t.Errorf("the elder that waited, with no claim: %s", got)
	}
}

// TestAClaimIsHandedOverOnce: who is late changes nothing.
func TestAClaimIsHandedOverOnce(t *testing.T) {
	c := still(t)
	c.take1(t, "default/front uid-front")
	was, _ := c.o.Claims.Claim(address)
	for _, heir := range []string{"default/web uid-web", "default/late uid-late"} {
		if err := c.o.Claims.HandOver(address, was, heir); err != nil {
			t.Fatal(err)
		}
	}
	if claim, _ := c.o.Claims.Claim(address); claim.Owner != "default/web uid-web" {
		t.Errorf("the claim is %+v", claim)
	}
}
