package sched

import (
	"context"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"shoal/sched/internal/testpeer"
)

// An informer that a term was the first to start goes on when the term ends, and
// ends with what it belongs to.
func TestInformersOutliveATerm(t *testing.T) {
	until, stop := context.WithCancel(t.Context())
	defer stop()
	shared := Lasting(until, informers.NewSharedInformerFactory(peer.Client, 0))
	drivers := shared.Storage().V1().CSIDrivers()
	term, end := context.WithCancel(t.Context())
	shared.StartWithContext(term)
	informer := drivers.Informer()
	shared.Start(term.Done())
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("not in sync")
	}
	end()
	for range 50 { // it would be stopped by now
		if informer.IsStopped() {
			t.Fatal("the informer ended with the term")
		}
		time.Sleep(10 * time.Millisecond)
	}
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{GenerateName: "lasting-"}}
	driver, err := peer.Client.StorageV1().CSIDrivers().Create(t.Context(), driver, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = peer.Client.StorageV1().CSIDrivers().Delete(context.WithoutCancel(t.Context()), driver.Name, metav1.DeleteOptions{})
	}()
	testpeer.Eventually(t, func() string {
		if _, err := drivers.Lister().Get(driver.Name); err != nil {
			return err.Error()
		}
		return ""
	})
	stop()
	testpeer.Eventually(t, func() string {
		if !informer.IsStopped() {
			return "the informer outlives the factory"
		}
		return ""
	})
}
