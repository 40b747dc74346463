package telemetry

import (
	"fmt"
	"strings"
	"testing"
)

// series returns the counts by label.
func series(m *Model) map[string]uint64 {
	all := map[string]uint64{}
	m.series(func(label string, count uint64) { all[label] = count })
	return all
}

func TestModel_FewClasses(t *testing.T) {
	m := metrics().Model("digits", "sha256:a", []string{"0", "1", "2"})
	m.Predicted(1, 0.5)
	m.Predicted(1, 0.5)
	if got := fmt.Sprint(series(m)); got != "map[0:0 1:2 2:0]" {
		t.Errorf("series = %s", got)
	}
}

// TestModel_ManyClasses checks that only the most frequent classes have series, and that no series decreases.
func TestModel_ManyClasses(t *testing.T) {
	labels := make([]string, 1000)
	for i := range labels {
		labels[i] = fmt.Sprint("class ", i)
	}
	metrics := metrics()
	m := metrics.Model("imagenet", "sha256:a", labels)
	predict := func(class, n int) {
		for range n {
			m.Predicted(class, 0.5)
		}
	}
	before := map[string]uint64{}
	check := func(size int, want map[string]uint64) {
		t.Helper()
		got := series(m)
		if len(got) != size+1 {
			t.Errorf("%d series, want %d and %s", len(got), size, Other)
		}
		for label, n := range want {
			if got[label] != n {
				t.Errorf("%s: %d, want %d", label, got[label], n)
			}
		}
		for label, n := range got {
			if n < before[label] {
				t.Errorf("%s decreased from %d to %d", label, before[label], n)
			}
		}
		before = got
	}
	predict(7, 3)
	check(1, map[string]uint64{"class 7": 3, Other: 0})
	for i := range 100 {
		predict(i, 1)
	}
	check(MaxLabels, map[string]uint64{"class 0": 1, "class 7": 4, "class 48": 1, Other: 50})
	predict(990, 20) // becomes one of the most frequent
	predict(99, 5)   // was counted as other before
	check(MaxLabels, map[string]uint64{"class 7": 4, "class 990": 20, "class 99": 5, Other: 50})
	predict(60, 1)
	check(MaxLabels, map[string]uint64{"class 990": 20, "class 99": 5, Other: 50})
	totals, err := metrics.Totals()
	if err != nil || totals.Images != 129 {
		t.Errorf("%d images (%v), want 129", totals.Images, err)
	}
}

// TestModel_ClassNamedOther checks that a class with the label Other shares the series of the classes without one. Duplicate series would
// make all metrics unreadable.
func TestModel_ClassNamedOther(t *testing.T) {
	for _, classes := range []int{2, MaxLabels, MaxLabels + 1, 1000} {
		t.Run(fmt.Sprint(classes, " classes"), func(t *testing.T) {
			labels := make([]string, classes)
			for i := range labels {
				labels[i] = fmt.Sprint("class ", i)
			}
			labels[1] = Other
			metrics := metrics()
			m := metrics.Model("things", "sha256:a", labels)
			want := 0
			for range 2 { // counts are kept from scrape to scrape
				for i := range min(classes, 60) { // more than have series
					m.Predicted(i, 0.5)
				}
				for range 5 {
					m.Predicted(1, 0.5) // by far the most frequent
				}
				metrics.Feedback("things", Other, "true")
				if want += 6; classes > MaxLabels {
					want = int(series(m)[Other])
				}
				got := text(t, metrics)
				if line := fmt.Sprintf(`fakeart_predictions_total{label="other",model="sha256:a",model_name="things"} %d`, want); !strings.Contains(got, line+"\n") {
					t.Errorf("metrics lack %s", line)
				}
				total := uint64(0)
				for _, n := range series(m) {
					total += n
				}
				if n, err := metrics.Totals(); err != nil || n.Images != total {
					t.Errorf("the series count %d images, want %d (%v)", total, n.Images, err)
				}
			}
			if classes > MaxLabels && want < 12 {
				t.Errorf("%s counts %d images, want at least those of its class, 12", Other, want)
			}
		})
	}
}

func TestFeedback_ManyLabels(t *testing.T) {
	m := metrics()
	for i := range 100 {
		m.Feedback("imagenet", fmt.Sprint("class ", i), "true")
	}
	m.Feedback("imagenet", "class 3", "true")
	m.Feedback("pets", "cat", "false")
	got := text(t, m)
	for _, line := range []string{
		`fakeart_feedback_total{correct="true",label="class 3",model_name="imagenet"} 2`, `fakeart_feedback_total{correct="true",label="class 49",model_name="imagenet"} 1`,
		`fakeart_feedback_total{correct="true",label="other",model_name="imagenet"} 50`, `fakeart_feedback_total{correct="false",label="cat",model_name="pets"} 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}
