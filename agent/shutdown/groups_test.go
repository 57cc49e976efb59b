package shutdown

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pods(priorities ...int32) []*v1.Pod {
	var out []*v1.Pod
	for _, p := range priorities {
		out = append(out, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(p)}, Spec: v1.PodSpec{Priority: &p}})
	}
	return append(out, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "none"}})
}

func TestGroups(t *testing.T) {
	for text, want := range map[string]string{
		"0=20s,2000000000=10s":   "0:[-5 5 1000 none] 2000000000:[2000001000]",
		"1000=5s,10=7s":          "10:[-5 5 none] 1000:[1000 2000001000]",
		"7=1s":                   "7:[-5 5 1000 2000001000 none]",
		"-10=1s,0=1s,1=1s,99=1s": "-10:[-5] 0:[none] 1:[5] 99:[1000 2000001000]",
	} {
		periods, err := ParsePeriods(text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, g := range groups(periods, pods(-5, 5, 1000, 2000001000)) {
			names := []string{}
			for _, p := range g.pods {
				names = append(names, p.Name)
			}
			if i > 0 {
				got += " "
			}
			got += fmt.Sprintf("%d:%v", g.Priority, names)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestParsePeriods(t *testing.T) {
	for _, bad := range []string{"x", "1", "1=", "=1s", "1=1", "1=-1s", "1=1s,1=2s", "9999999999=1s", ","} {
		if p, err := ParsePeriods(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
	if p, err := ParsePeriods(""); p != nil || err != nil {
		t.Errorf("nothing is %v, %v", p, err)
	}
}

func TestFit(t *testing.T) {
	all := Periods(30*time.Second, 10*time.Second)
	if got := fit(all, 6*time.Second); got[0].Time != 4*time.Second || got[1].Time != 2*time.Second {
		t.Errorf("shortened: %v", got)
	}
	if got := fit(all, time.Hour); got[0].Time != 20*time.Second || total(got) != 30*time.Second {
		t.Errorf("enough: %v", got)
	}
	if Periods(0, time.Second) != nil {
		t.Error("no time makes periods")
	}
}
