package monitoring

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"fakeart/monitoring/metricstest"
)

// board holds the parts of a Cloud Monitoring dashboard that the tests check.
type board struct {
	DisplayName  string
	MosaicLayout struct {
		Columns int
		Tiles   []struct {
			XPos, YPos, Width, Height int
			Widget                    struct {
				Title   string
				XyChart struct {
					DataSets []struct {
						TimeSeriesQuery struct{ PrometheusQuery string }
					}
				}
			}
		}
	}
}

func read(t *testing.T) (b board) {
	t.Helper()
	if err := json.Unmarshal([]byte(Dashboard("fakeart-dev-server")), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDashboard_Queries(t *testing.T) {
	server := metricstest.Server(t, "cluster", "namespace")
	google := func(metric string) bool { return strings.HasPrefix(metric, "run_googleapis_com:") }
	selector := regexp.MustCompile(`([a-z_:]+)\{([^}]*)\}`)
	b := read(t)
	if len(b.MosaicLayout.Tiles) < 10 || b.DisplayName != "fakeart-dev-server" {
		t.Errorf("%q: %d tiles, want at least 10", b.DisplayName, len(b.MosaicLayout.Tiles))
	}
	for _, tile := range b.MosaicLayout.Tiles {
		if len(tile.Widget.XyChart.DataSets) == 0 || tile.Widget.Title == "" {
			t.Errorf("tile %q has no query or title", tile.Widget.Title)
		}
		for _, set := range tile.Widget.XyChart.DataSets {
			query := strings.ReplaceAll(set.TimeSeriesQuery.PrometheusQuery, "${__interval}", "5m")
			found := selector.FindAllStringSubmatch(query, -1)
			if len(found) == 0 || strings.Contains(query, "SERVICE") {
				t.Errorf("%q: invalid query %q", tile.Widget.Title, query)
			}
			for _, problem := range server.Query(query, google) {
				t.Errorf("%q: %s", tile.Widget.Title, problem)
			}
			for _, s := range found {
				own := strings.HasPrefix(s[2], `cluster="__run__",namespace="fakeart-dev-server"`)
				run := google(s[1]) && strings.Contains(s[2], `service_name="fakeart-dev-server"`)
				if !own && !run {
					t.Errorf("%q: %s isn't restricted to the service", tile.Widget.Title, s[0])
				}
			}
		}
	}
}

// Google's API doesn't return default values. A dashboard that sets them would differ at each update.
func TestDashboard_NoDefaultValues(t *testing.T) {
	var all any
	if err := json.Unmarshal([]byte(dashboard), &all); err != nil {
		t.Fatal(err)
	}
	var check func(path string, v any)
	check = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				check(path+"."+key, value)
			}
		case []any:
			for _, value := range v {
				check(path, value)
			}
			if len(v) == 0 {
				t.Errorf("%s is empty", path)
			}
			return
		}
		if v == nil || reflect.ValueOf(v).IsZero() {
			t.Errorf("%s has the default value %v", path, v)
		}
	}
	check("", all)
}

func TestDashboard_Layout(t *testing.T) {
	b := read(t)
	taken := map[[2]int]string{}
	for _, tile := range b.MosaicLayout.Tiles {
		if tile.XPos+tile.Width > b.MosaicLayout.Columns {
			t.Errorf("%q is outside of the dashboard", tile.Widget.Title)
		}
		for x := tile.XPos; x < tile.XPos+tile.Width; x++ {
			for y := tile.YPos; y < tile.YPos+tile.Height; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%q overlaps %q", tile.Widget.Title, other)
				}
				taken[[2]int{x, y}] = tile.Widget.Title
			}
		}
	}
}
