package monitoring

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"fakeart/monitoring/metricstest"
)

// board is as much of a dashboard as is looked at here.
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

func TestEveryTileIsOfTheServicesOwnSeries(t *testing.T) {
	server := metricstest.Server(t, "cluster", "namespace")
	google := func(metric string) bool { return strings.HasPrefix(metric, "run_googleapis_com:") }
	selector := regexp.MustCompile(`([a-z_:]+)\{([^}]*)\}`)
	b := read(t)
	if len(b.MosaicLayout.Tiles) < 10 || b.DisplayName != "fakeart-dev-server" {
		t.Errorf("%q has %d tiles", b.DisplayName, len(b.MosaicLayout.Tiles))
	}
	for _, tile := range b.MosaicLayout.Tiles {
		if len(tile.Widget.XyChart.DataSets) == 0 || tile.Widget.Title == "" {
			t.Errorf("%q shows nothing", tile.Widget.Title)
		}
		for _, set := range tile.Widget.XyChart.DataSets {
			query := strings.ReplaceAll(set.TimeSeriesQuery.PrometheusQuery, "${__interval}", "5m")
			found := selector.FindAllStringSubmatch(query, -1)
			if len(found) == 0 || strings.Contains(query, "SERVICE") {
				t.Errorf("%q asks for %q", tile.Widget.Title, query)
			}
			for _, problem := range server.Query(query, google) {
				t.Errorf("%q: %s", tile.Widget.Title, problem)
			}
			for _, s := range found {
				own := strings.HasPrefix(s[2], `cluster="__run__",namespace="fakeart-dev-server"`)
				run := google(s[1]) && strings.Contains(s[2], `service_name="fakeart-dev-server"`)
				if !own && !run {
					t.Errorf("%q: %s is no series of the service", tile.Widget.Title, s[0])
				}
			}
		}
	}
}

// The API leaves out what has the value that it would have anyway; the dashboard would
// then differ from its file at every update.
func TestTheDashboardSaysNothingThatTheAPIForgets(t *testing.T) {
	var all any
	if err := json.Unmarshal([]byte(dashboard), &all); err != nil {
		t.Fatal(err)
	}
	var look func(path string, v any)
	look = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				look(path+"."+key, value)
			}
		case []any:
			for _, value := range v {
				look(path, value)
			}
			if len(v) == 0 {
				t.Errorf("%s is empty", path)
			}
			return
		}
		if v == nil || reflect.ValueOf(v).IsZero() {
			t.Errorf("%s is %v", path, v)
		}
	}
	look("", all)
}

func TestNoTileCoversAnother(t *testing.T) {
	b := read(t)
	taken := map[[2]int]string{}
	for _, tile := range b.MosaicLayout.Tiles {
		if tile.XPos+tile.Width > b.MosaicLayout.Columns {
			t.Errorf("%q is not on the board", tile.Widget.Title)
		}
		for x := tile.XPos; x < tile.XPos+tile.Width; x++ {
			for y := tile.YPos; y < tile.YPos+tile.Height; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%q covers %q", tile.Widget.Title, other)
				}
				taken[[2]int{x, y}] = tile.Widget.Title
			}
		}
	}
}
