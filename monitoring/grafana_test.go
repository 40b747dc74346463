package monitoring

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"fakeart/monitoring/metricstest"
	"fakeart/monitoring/prometheus"
)

// grafanaBoard holds the parts of a Grafana dashboard that the tests check.
type grafanaBoard struct {
	UID, Title    string
	SchemaVersion int
	Panels        []grafanaPanel
	Annotations   struct{ List []struct{ Name, Expr string } }
	Templating    struct {
		List []struct {
			Name, Type, Regex string
			Multi             bool
			Query             any
		}
	}
}

type grafanaPanel struct {
	ID                  int
	Type, Title, Repeat string
	GridPos             struct{ X, Y, W, H int }
	Datasource          struct{ UID string }
	FieldConfig         struct{ Defaults struct{ Unit string } }
	Targets             []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ UID string }
	}
	// Panels are those of a collapsed row.
	Panels []grafanaPanel
}

func readGrafana(t *testing.T) (b grafanaBoard) {
	t.Helper()
	data, err := os.ReadFile("grafana/dashboards/fakeart.json")
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []grafanaPanel
	for _, p := range b.Panels {
		all = append(append(all, p), p.Panels...)
	}
	b.Panels = all
	return b
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// Grafana wouldn't report unknown series: the panel would just stay empty.
func TestGrafana_Queries(t *testing.T) {
	rules, err := prometheus.Read(os.DirFS("prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	server := metricstest.Server(t, "job", "instance")
	server.Add(rules)
	queries := map[string]string{}
	b := readGrafana(t)
	for _, panel := range b.Panels {
		for _, target := range panel.Targets {
			queries[panel.Title+" "+target.RefID] = target.Expr
		}
	}
	for _, a := range b.Annotations.List {
		queries[a.Name] = a.Expr
	}
	for _, v := range b.Templating.List {
		object, _ := v.Query.(map[string]any) // a string for data sources
		query, _ := object["query"].(string)
		if inner, ok := strings.CutPrefix(query, "query_result("); ok {
			queries["variable "+v.Name] = strings.TrimSuffix(inner, ")")
		} else if found := labelValues.FindStringSubmatch(query); found != nil {
			queries["variable "+v.Name] = "sum by (" + found[2] + ") (" + found[1] + ")"
		} else if v.Type == "query" {
			t.Errorf("variable %s: unexpected query %q", v.Name, query)
		}
	}
	if len(queries) < 35 {
		t.Errorf("%d queries, want at least 35", len(queries))
	}
	// Grafana replaces a variable with several values by a regular expression.
	variables := strings.NewReplacer("$__rate_interval", "5m", `=~"$model"`, `=~".*"`, `=~"$label"`, `=~".*"`)
	selector := regexp.MustCompile(`\b(?:fakeart|go|process)_\w+|\bup\b|\bjob:[\w:]+`)
	for name, query := range queries {
		for _, problem := range server.Query(variables.Replace(query), nil) {
			t.Errorf("%s: %s", name, problem)
		}
		for _, found := range selector.FindAllStringIndex(query, -1) {
			if !strings.HasPrefix(query[found[1]:], `{job="$job"`) && name != "variable job" {
				t.Errorf("%s: %s isn't restricted to $job in %s", name, query[found[0]:found[1]], query)
			}
		}
	}
}

func TestGrafana_Panels(t *testing.T) {
	b := readGrafana(t)
	if b.UID != "fakeart" || b.Title == "" || b.SchemaVersion == 0 {
		t.Errorf("UID %s, title %q, schema version %d", b.UID, b.Title, b.SchemaVersion)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	rows := map[string]int{}
	row := ""
	for _, p := range b.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" {
			t.Errorf("%q: missing title or duplicate or missing ID %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%q is outside of the dashboard: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%q overlaps %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			row = p.Title
			continue
		}
		rows[row]++
		if p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%q: unit %q, data source %q, %d queries", p.Title, p.FieldConfig.Defaults.Unit, p.Datasource.UID, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.RefID == "" || refs[target.RefID] || target.LegendFormat == "" || target.Datasource.UID != "${datasource}" {
				t.Errorf("%q: invalid query %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
	}
	for _, want := range []string{"Objectives", "Requests", "Saturation", "Model", "Prediction log", "Drift"} {
		if rows[want] == 0 {
			t.Errorf("row %q has no panel", want)
		}
	}
	names := map[string]string{}
	for _, v := range b.Templating.List {
		names[v.Name] = v.Type
	}
	if names["datasource"] != "datasource" || names["job"] != "query" {
		t.Errorf("variables %v", names)
	}
}

// Classes and models come from the metrics: there is a row per model with a panel per class, and no
// query names a class.
func TestGrafana_AnyClasses(t *testing.T) {
	b := readGrafana(t)
	repeats := map[string]string{}
	for _, p := range b.Panels {
		if p.Repeat != "" {
			repeats[p.Type] += p.Repeat
		}
		for _, target := range p.Targets {
			if class := regexp.MustCompile(`label=~?"([^$"][^"]*)"`).FindString(target.Expr); class != "" {
				t.Errorf("%q names a class: %s", p.Title, class)
			}
		}
	}
	if repeats["row"] != "model" || repeats["timeseries"] != "label" {
		t.Errorf("repeated rows and panels: %v, want rows by model and panels by label", repeats)
	}
	for _, v := range b.Templating.List {
		if (v.Name == "model" || v.Name == "label") && !v.Multi {
			t.Errorf("variable %s has one value", v.Name)
		}
		if v.Name != "label" {
			continue
		}
		// As Grafana applies it to the result of the query.
		class := regexp.MustCompile(strings.Trim(v.Regex, "/"))
		for result, want := range map[string]string{
			`{label="cat"} 12 1690000000000`: "cat", `{label="tench, Tinca tinca"} 1 1`: "tench, Tinca tinca", `{label="a \"b\""} 1 1`: `a \"b\"`,
		} {
			if got := class.FindStringSubmatch(result); got == nil || got[1] != want {
				t.Errorf("class of %s = %q, want %s", result, got, want)
			}
		}
	}
}

// Docker creates a folder for a mount whose source is missing, without an error.
func TestCompose_MountsAndImages(t *testing.T) {
	data, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image   string
			Command []string
			Volumes []string
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	mounted := map[string]string{}
	for name, s := range file.Services {
		if !regexp.MustCompile(`^[a-z]+/[a-z]+:v?[0-9.]+@sha256:[0-9a-f]{64}$`).MatchString(s.Image) {
			t.Errorf("%s: image %s isn't pinned by tag and digest", name, s.Image)
		}
		for _, v := range s.Volumes {
			from, to, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(from, "./") {
				continue
			}
			if _, err := os.Stat(from); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mounted[strings.TrimSuffix(to, ":ro")] = from
		}
	}
	for _, inside := range []string{
		"/etc/prometheus/prometheus.yaml", "/etc/prometheus/targets.yaml", "/etc/grafana/provisioning/datasources/prometheus.yaml",
		"/etc/grafana/provisioning/dashboards/fakeart.yaml", "/var/lib/grafana/dashboards/fakeart.json",
	} {
		found := false
		for to, from := range mounted {
			if rest, ok := strings.CutPrefix(inside, to+"/"); ok {
				_, err := os.Stat(filepath.Join(from, rest))
				found = found || err == nil
			}
		}
		if !found {
			t.Errorf("nothing is mounted at %s", inside)
		}
	}
}
