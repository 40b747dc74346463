package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"fakeart/server/api"
	"fakeart/server/models"
	"fakeart/server/oip"
	"fakeart/server/request"
	"fakeart/server/source"
)

// document returns the OpenAPI document of the server.
func document(t *testing.T, m *Main) map[string]any {
	t.Helper()
	response, body := do(t, "GET", m.URL()+"/openapi.json", "", nil)
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(map[string]any)
}

func member(v any, path ...string) any {
	for _, key := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[key]
	}
	return v
}

func TestOpenAPI_Routes(t *testing.T) {
	m := start(t)
	d := document(t, m)
	if version := d["openapi"]; version != "3.1.0" {
		t.Errorf("OpenAPI %v", version)
	}
	var described, routes []string
	for path, item := range d["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, r := range m.endpoints[0].app.(*fiber.App).GetRoutes(true) {
		if r.Method != "HEAD" {
			routes = append(routes, r.Method+" "+parameter.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	slices.Sort(described)
	slices.Sort(routes)
	// Pages and their files aren't part of the API.
	routes = slices.DeleteFunc(routes, func(r string) bool { return slices.Contains([]string{"GET /docs/*", "GET /", "GET /ui/*"}, r) })
	if !slices.Equal(described, routes) {
		t.Errorf("described:\n%s\nroutes:\n%s", strings.Join(described, "\n"), strings.Join(routes, "\n"))
	}
	for path, item := range d["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if member(op, "summary") == nil || member(op, "operationId") == nil || member(op, "tags") == nil {
				t.Errorf("%s %s: no summary, ID or tag", method, path)
			}
		}
	}
}

// This test provokes each documented response of each operation and validates it against its schema.
func TestOpenAPI_Responses(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1") // where nothing listens
	open := start(t)
	tokens := start(t, func(c *Config) { c.AdminToken = []string{"secret-secret-secret"} })
	limited := start(t, func(c *Config) { c.RateLimit = 1 })
	explainable := startExplainable(t)
	unlogged := start(t, func(c *Config) { c.LogStore = "none" })
	held, _ := startBlocked(t, func(c *Config) { c.Queue, c.MaxImages, c.RequestTimeout = 1, 1, 50*time.Millisecond })
	quiet := start(t, func(c *Config) { c.FeedbackLimit = 1 })
	failing := startWithFeedback(t)
	failing.store.fails.Store(true)
	unwritable := failing.Main
	unready := start(t)
	unready.draining.Store(true)
	empty := startWithoutModel(t, t.TempDir())
	vanished := start(t)
	if err := os.Remove(vanished.config.model()); err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, "gs://bucket/model.onnx")
	config.ModelWatch = interval(time.Hour)
	unreachable := NewMain(config, slog.New(slog.DiscardHandler))
	unreachable.ownSource = source.Options{Timeout: time.Second}
	startMain(t, unreachable)
	small := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.DiscardHandler))
	small.otherSource = source.Options{Limit: 10}
	startMain(t, small)
	undecided, drifting := startDriftMonitored(t), startDriftMonitored(t)
	predictRed(t, drifting, 120, 100)
	awaitDrift(t, drifting)

	img := pngOf(t, solid(red, 32, 32))
	formType, form := newForm(t, field{"data", "a.png", img}, field{"data", "b.png", img})
	noneType, none := newForm(t, field{"x", "a.png", img})
	tensor := func(n int) []byte {
		values := strings.TrimSuffix(strings.Repeat("0.5,", n*3*32*32), ",")
		return fmt.Appendf(nil, `{"id":"7","inputs":[{"name":"input","shape":[%d,3,32,32],"datatype":"FP32","data":[%s]}]}`, n, values)
	}
	good := writeFile(t, "new.onnx", modelBytes(t, detector(t, 2)))
	bad := writeFile(t, "bad.onnx", []byte("no model"))
	feedbackBody := func(id string) []byte { return fmt.Appendf(nil, `{"id":%q,"label":"REAL"}`, id) }
	put := func(ref string) []byte { return fmt.Appendf(nil, `{"model":%q}`, ref) }

	type call struct {
		m       *Main
		query   string
		header  map[string]string
		body    []byte
		times   int // number of identical requests before the one to check
		name    string
		version string
	}
	brotli := map[string]string{"Content-Encoding": "br"}
	proxied := map[string]string{"X-Forwarded-For": "192.0.2.1"}
	big := make([]byte, open.config.MaxBody+1)
	asForm, asJSON := map[string]string{"Content-Type": formType}, map[string]string{"Content-Type": "application/json"}
	answers := map[string]map[string]call{
		"health":        {"200": {m: open}},
		"ready":         {"200": {m: open}, "503": {m: unready}},
		"models":        {"200": {m: open}, "404": {m: vanished}, "502": {m: unreachable}},
		"current-model": {"200": {m: open}, "404": {m: open, query: "?model=other"}, "503": {m: empty}},
		"change-model": {
			"200": {m: start(t), body: put("file://" + good)}, "400": {m: open, body: put("ftp://x/y")}, "401": {m: tokens, body: put("previous")},
			"403": {m: open, body: put("previous"), header: proxied}, "404": {m: open, body: put("file:///nowhere.onnx")},
			"409": {m: open, body: put("previous")}, "413": {m: small, body: put("file://" + good)}, "415": {m: open, body: []byte("x"), header: map[string]string{"Content-Type": "text/html"}},
			"422": {m: open, body: put("file://" + bad)},
		},
		"log": {
			"200": {m: open, query: "?limit=5"}, "400": {m: open, query: "?cursor=x"}, "401": {m: tokens}, "403": {m: open, header: proxied},
			"404": {m: unlogged},
		},
		"feedback": {
			"200": {m: open, body: feedbackBody(predict(t, open)), header: asJSON}, "400": {m: open, body: []byte("x"), header: asJSON},
			"404": {m: open, body: feedbackBody("00000000-0000-7000-8000-000000000000"), header: asJSON}, "413": {m: open, body: big, header: asJSON},
			"415": {m: open, body: feedbackBody("x"), header: brotli}, "422": {m: open, body: feedbackBody("x"), header: asJSON},
			"429": {m: quiet, body: feedbackBody("x"), header: asJSON, times: 2}, "503": {m: unwritable, body: feedbackBody("00000000-0000-7000-8000-000000000000"), header: asJSON},
		},
		"drift": {
			"200": {m: drifting}, "401": {m: tokens}, "403": {m: open, header: proxied}, "404": {m: open}, "409": {m: undecided},
		},
		"export-log": {
			"200": {m: open}, "400": {m: open, query: "?format=xls"}, "401": {m: tokens, header: map[string]string{"Authorization": "Bearer wrong"}},
			"403": {m: open, header: proxied}, "404": {m: unlogged},
		},
		"v2-server": {"200": {m: open}},
		"v2-stats":  {"200": {m: open}},
		"v2-index":  {"200": {m: open}, "400": {m: open, body: []byte("x")}, "413": {m: open, body: big}, "415": {m: open, header: brotli}},
		"v2-live":   {"200": {m: open}},
		"v2-ready":  {"200": {m: open}, "503": {m: unready}},
		"stats":     {"200": {m: open}},
		"metrics":   {"200": {m: open}},
		"openapi":   {"200": {m: open}},
		"docs":      {"200": {m: open}},
	}
	for _, id := range []string{"predict", "model"} {
		answers[id] = map[string]call{
			"200": {m: open, body: img}, "400": {m: open, body: none, header: map[string]string{"Content-Type": noneType}},
			"404": {m: open, body: img, query: "?model=other"}, "413": {m: open, body: big}, "415": {m: open, body: []byte("hello")}, "422": {m: open, body: img[:60]},
			"429": {m: limited, body: img, times: 2}, "503": {m: held, body: img},
		}
	}
	for _, prefix := range []string{"v2-model", "v2-version"} {
		answers[prefix] = map[string]call{"200": {m: open}, "404": {m: open, name: "other"}, "503": {m: empty}}
		answers[prefix+"-ready"] = map[string]call{"200": {m: open}, "404": {m: open, name: "other"}, "503": {m: unready}}
	}
	for _, id := range []string{"v2-model-config", "v2-version-config", "v2-model-stats", "v2-version-stats"} {
		answers[id] = map[string]call{"200": {m: open}, "404": {m: open, name: "other"}, "503": {m: empty}}
	}
	answers["v2-version"]["404"] = call{m: open, version: "1"}
	for _, id := range []string{"v2-infer", "v2-version-infer"} {
		answers[id] = map[string]call{
			"200": {m: open, body: tensor(2)}, "400": {m: open, body: []byte(`{"inputs":[]}`)}, "404": {m: open, body: tensor(1), name: "other"},
			"413": {m: open, body: big}, "415": {m: open, body: tensor(1), header: brotli},
			"429": {m: limited, body: tensor(1), times: 2}, "503": {m: held, body: tensor(1)},
		}
	}
	// More forms of the requests.
	more := map[string][]call{"predict": {
		{m: open, body: form, header: asForm},
		{m: open, body: []byte(`{"instances":[{"b64":""},{"b64":"!"}]}`), header: asJSON},
		{m: open, body: img, query: "?embedding=true&input=png"},
		{m: explainable, body: img, query: "?explain=gradcam"},
		{m: explainable, body: form, header: asForm, query: "?explain=occlusion&explain_format=png"},
	}}

	d := document(t, tokens)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("http://localhost/openapi.json", d); err != nil {
		t.Fatal(err)
	}
	for path, item := range d["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			id := member(op, "operationId").(string)
			responses := member(op, "responses").(map[string]any)
			check := func(t *testing.T, status string, c call) {
				where := strings.NewReplacer("{name}", cmp.Or(c.name, models.DefaultName), "{version}", cmp.Or(c.version, inUse(c.m))).Replace(path)
				var response *http.Response
				var body []byte
				for range c.times + 1 {
					request, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(method), c.m.URL()+where+c.query, bytes.NewReader(c.body))
					if err != nil {
						t.Fatal(err)
					}
					for key, value := range c.header {
						request.Header.Set(key, value)
					}
					response, body = send(t, request)
				}
				if fmt.Sprint(response.StatusCode) != status {
					t.Fatalf("status %d, want %s: %.300s", response.StatusCode, status, body)
				}
				mediaType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
				content, _ := member(responses[status], "content").(map[string]any)
				if content[mediaType] == nil {
					t.Fatalf("undocumented content type %s, want one of %v", mediaType, content)
				}
				if !strings.HasSuffix(mediaType, "json") || id == "export-log" || id == "openapi" {
					return
				}
				pointer := strings.Join([]string{"paths", escape(path), method, "responses", status, "content", escape(mediaType), "schema"}, "/")
				schema, err := compiler.Compile("http://localhost/openapi.json#/" + pointer)
				if err != nil {
					t.Fatal(err)
				}
				value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
				if err == nil {
					err = schema.Validate(value)
				}
				if err != nil {
					t.Errorf("%s: %v", body, err)
				}
			}
			for status := range responses {
				t.Run(id+" "+status, func(t *testing.T) {
					if status == "default" {
						return // all statuses that aren't listed
					}
					c, ok := answers[id][status]
					if !ok {
						t.Fatalf("%s %s documents status %s, which this test doesn't provoke", method, path, status)
					}
					check(t, status, c)
				})
			}
			for status := range answers[id] {
				if responses[status] == nil {
					t.Errorf("%s returns status %s, which isn't documented", id, status)
				}
			}
			for i, c := range more[id] {
				t.Run(fmt.Sprint(id, " 200 ", i), func(t *testing.T) { check(t, "200", c) })
			}
			delete(answers, id)
		}
	}
	for id := range answers {
		t.Errorf("unknown operation %s", id)
	}
}

// TestOpenAPI_Requests checks that the schemas of request bodies allow exactly what the server accepts.
func TestOpenAPI_Requests(t *testing.T) {
	m := start(t)
	d := document(t, m)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("http://localhost/openapi.json", d); err != nil {
		t.Fatal(err)
	}
	values := strings.TrimSuffix(strings.Repeat("0.5,", 3*32*32), ",")
	tensor := func(members, input string) string {
		return `{` + members + `"inputs":[{"name":"input","shape":[1,3,32,32],"datatype":"FP32",` + input + `}]}`
	}
	data := `"data":[` + values + `]`
	img := base64.StdEncoding.EncodeToString(pngOf(t, solid(red, 32, 32)))
	id := predict(t, m)
	const infer = "/v2/models/{name}/infer"
	for _, test := range []struct {
		name, method, path, body string
		valid                    bool
	}{ // no schema can express what depends on the model in use: labels, and names, shapes and values of tensors
		{"instances", "post", "/predict", `{"instances":[{"b64":"` + img + `"}]}`, true},
		{"unknown_members", "post", "/predict", `{"parameters":{},"instances":[{"b64":"` + img + `","key":1}]}`, true},
		{"failing_instance", "post", "/predict", `{"instances":[{"b64":"!"}]}`, true},
		{"null_instances", "post", "/predict", `{"instances":null}`, false},
		{"no_instances", "post", "/predict", `{"instances":[]}`, false},
		{"null_instance", "post", "/predict", `{"instances":[null]}`, false},
		{"null_b64", "post", "/predict", `{"instances":[{"b64":null}]}`, false},
		{"other_case", "post", "/predict", `{"instances":[{"B64":"` + img + `"}]}`, false},
		{"tensor", "post", infer, tensor("", data), true},
		{"null_members", "post", infer, tensor(`"id":null,"parameters":null,"outputs":null,`, `"parameters":null,`+data), true},
		{"nested_data", "post", infer, tensor("", `"data":[[`+values+`]]`), true},
		{"parameters", "post", infer, tensor(`"parameters":{"binary_data_output":false,"timeout":10000000,"x":1},`, data), true},
		{"no_data", "post", infer, tensor("", `"parameters":{}`), false},
		{"null_data", "post", infer, tensor("", `"data":null`), false},
		{"empty_data", "post", infer, tensor("", `"data":[]`), false},
		{"text_data", "post", infer, tensor("", `"data":["0.5"]`), false},
		{"binary_size_in_JSON", "post", infer, tensor("", `"parameters":{"binary_data_size":12288},`+data), false},
		{"shared_memory", "post", infer, tensor("", `"parameters":{"shared_memory_region":"x"},`+data), false},
		{"text_flag", "post", infer, tensor(`"parameters":{"binary_data_output":"yes"},`, data), false},
		{"negative_timeout", "post", infer, tensor(`"parameters":{"timeout":-1},`, data), false},
		{"classification", "post", infer, tensor(`"outputs":[{"name":"logit","parameters":{"classification":1}}],`, data), false},
		{"null_inputs", "post", infer, `{"inputs":null}`, false},
		{"no_inputs", "post", infer, `{"inputs":[]}`, false},
		{"two_inputs", "post", infer, strings.Replace(tensor("", data), "}]}", "},{}]}", 1), false},
		{"short_shape", "post", infer, strings.Replace(tensor("", data), "[1,3,32,32]", "[3,32,32]", 1), false},
		{"empty_shape", "post", infer, strings.Replace(tensor("", data), "[1,3,32,32]", "[]", 1), false},
		{"integral_shape", "post", infer, strings.Replace(tensor("", data), "[1,3,32,32]", "[1.0,3,32.0,32]", 1), true},
		{"zero_images", "post", infer, strings.Replace(tensor("", data), "[1,3,32,32]", "[0,3,32,32]", 1), false},
		{"index", "post", "/v2/repository/index", `{"ready":true}`, true},
		{"null_ready", "post", "/v2/repository/index", `{"ready":null}`, true},
		{"null_index", "post", "/v2/repository/index", `null`, false},
		{"index_of_text", "post", "/v2/repository/index", `{"ready":"yes"}`, false},
		{"feedback", "post", "/feedback", `{"id":"` + id + `","label":"REAL"}`, true},
		{"null_comment", "post", "/feedback", `{"id":"` + id + `","label":"REAL","comment":null}`, true},
		{"other_case_of_label", "post", "/feedback", `{"id":"` + id + `","Label":"REAL"}`, false},
		{"empty_label", "post", "/feedback", `{"id":"` + id + `","label":""}`, false},
		{"model", "put", "/models/current", `{"model":"` + m.config.model() + `"}`, true},
		{"model_and_digest", "put", "/models/current", `{"model":"` + m.config.model() + `","sha256":"` + strings.ToUpper(inUse(m)) + `"}`, true},
		{"null_digest", "put", "/models/current", `{"model":"` + m.config.model() + `","sha256":null}`, true},
		{"null_model", "put", "/models/current", `{"model":null}`, false},
		{"invalid_digest", "put", "/models/current", `{"model":"` + m.config.model() + `","sha256":"x"}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pointer := strings.Join([]string{"paths", escape(test.path), test.method, "requestBody", "content", escape("application/json"), "schema"}, "/")
			schema, err := compiler.Compile("http://localhost/openapi.json#/" + pointer)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); (err == nil) != test.valid {
				t.Errorf("the schema allows it: %t, want %t: %v", err == nil, test.valid, err)
			}
			response, body := do(t, strings.ToUpper(test.method), m.URL()+strings.ReplaceAll(test.path, "{name}", models.DefaultName), "application/json", []byte(test.body))
			if (response.StatusCode < 400) != test.valid {
				t.Errorf("status %d, want it accepted: %t: %s", response.StatusCode, test.valid, body)
			}
		})
	}
	for name, form := range map[string]string{"a form without data": "--x\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--x--\r\n", "an empty form": "--x--\r\n"} {
		if response, body := do(t, "POST", m.URL()+"/predict", "multipart/form-data; boundary=x", []byte(form)); response.StatusCode != 400 {
			t.Errorf("%s: status %d: %s", name, response.StatusCode, body)
		}
	}
	if form := member(d, "paths", "/predict", "post", "requestBody", "content", "multipart/form-data", "schema"); fmt.Sprint(member(form, "required")) != "[data]" || fmt.Sprint(member(form, "properties", "data", "minItems")) != "1" {
		t.Errorf("the schema of forms doesn't require data: %v", form)
	}
}

// TestOpenAPI_Methods checks that every route responds to each other method with 405, and with Allow that lists
// the documented methods.
func TestOpenAPI_Methods(t *testing.T) {
	m := start(t)
	for path, item := range document(t, m)["paths"].(map[string]any) {
		var documented []string
		for method := range item.(map[string]any) {
			documented = append(documented, strings.ToUpper(method))
		}
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "get", request.OtherMethod} {
			if slices.Contains(documented, method) {
				continue
			}
			response, body := do(t, method, m.URL()+strings.NewReplacer("{name}", models.DefaultName, "{version}", inUse(m)).Replace(path), "", nil)
			allow := strings.Split(response.Header.Get("Allow"), ", ")
			allow = slices.DeleteFunc(allow, func(method string) bool { return method == "HEAD" })
			slices.Sort(allow)
			slices.Sort(documented)
			if response.StatusCode != 405 || !slices.Equal(allow, documented) || response.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s %s: status %d, Allow %v, want 405 and %v: %s", method, path, response.StatusCode, allow, documented, body)
			}
		}
	}
}

// TestOpenAPI_Security checks that the document requires a token exactly if the server does.
func TestOpenAPI_Security(t *testing.T) {
	locked := func(d map[string]any) (operations []string) {
		for path, item := range d["paths"].(map[string]any) {
			for method, op := range item.(map[string]any) {
				if member(op, "security") != nil || member(op, "responses", "401") != nil {
					operations = append(operations, method+" "+path)
				}
			}
		}
		slices.Sort(operations)
		return operations
	}
	open := document(t, start(t))
	if member(open, "components", "securitySchemes") != nil || len(locked(open)) > 0 {
		t.Errorf("without a token, the document requires one for %v", locked(open))
	}
	file := writeFile(t, "tokens", []byte("secret-secret-secret\n"))
	for name, option := range map[string]func(*Config){
		"token":      func(c *Config) { c.AdminToken = []string{"secret-secret-secret"} },
		"token_file": func(c *Config) { c.AdminTokenFile = file },
	} {
		t.Run(name, func(t *testing.T) {
			d := document(t, start(t, option))
			if got, want := locked(d), []string{"get /drift", "get /log", "get /log/export", "put /models/current"}; !slices.Equal(got, want) || member(d, "components", "securitySchemes", api.TokenScheme) == nil {
				t.Errorf("the document requires a token for %v, want %v", got, want)
			}
		})
	}
}

// TestOpenAPI_Links checks that links refer to operations and their parameters.
func TestOpenAPI_Links(t *testing.T) {
	d := document(t, start(t))
	operations := map[string]any{}
	var links []any
	for _, item := range d["paths"].(map[string]any) {
		for _, op := range item.(map[string]any) {
			operations[member(op, "operationId").(string)] = op
			if all, ok := member(op, "responses", "200", "links").(map[string]any); ok {
				links = slices.AppendSeq(links, maps.Values(all))
			}
		}
	}
	if len(links) == 0 {
		t.Error("no links")
	}
	for _, link := range links {
		target := operations[member(link, "operationId").(string)]
		if target == nil {
			t.Errorf("unknown operation in %v", link)
		}
		parameters, _ := member(link, "parameters").(map[string]any)
		for name := range parameters {
			if !strings.Contains(fmt.Sprint(member(target, "parameters")), "name:"+name+" ") {
				t.Errorf("unknown parameter %s in %v", name, link)
			}
		}
	}
}

func escape(pointer string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(pointer)
}

func TestDocs_SelfContained(t *testing.T) {
	m := start(t)
	response, text := do(t, "GET", m.URL()+"/docs", "", nil)
	if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("status %d, %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	policy := response.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	if bytes.Contains(text, []byte("<script")) {
		t.Error("the page contains a script")
	}
	// Only links that also work if a proxy serves the server below a path prefix.
	var targets []string
	for _, link := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(text, -1) {
		if target := string(link[1]); strings.HasPrefix(target, "#") {
			if !bytes.Contains(text, []byte(` id="`+target[1:]+`"`)) {
				t.Errorf("no element has the ID %s", target[1:])
			}
		} else {
			targets = append(targets, target)
		}
	}
	if want := []string{"data:,", "openapi.json"}; !slices.Equal(targets, want) {
		t.Errorf("links %q, want %q", targets, want)
	}
	for id := range operationIDs(t, m) {
		if !bytes.Contains(text, []byte(`<div id="`+id+`"`)) {
			t.Errorf("operation %s is missing", id)
		}
	}
	response, _ = do(t, "GET", m.URL()+"/docs/", "", nil) // the client follows redirects
	if path := response.Request.URL.Path; path != "/docs" {
		t.Errorf("/docs/ leads to %s, want /docs", path)
	}
	for _, path := range []string{"/docs/index.html", "/docs/../main.go", "/docs/%2e%2e/%2e%2e/etc/passwd", "/docs//etc/passwd"} {
		if response, body := do(t, "GET", m.URL()+path, "", nil); response.StatusCode != 404 {
			t.Errorf("%s: status %d: %.100s", path, response.StatusCode, body)
		}
	}
}

// operationIDs returns the IDs of the operations in the OpenAPI document.
func operationIDs(t *testing.T, m *Main) map[string]bool {
	t.Helper()
	_, text := do(t, "GET", m.URL()+"/openapi.json", "", nil)
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, item := range document.Paths {
		for _, o := range item {
			ids[o.OperationID] = true
		}
	}
	return ids
}

func TestV2Infer_BinaryTensors(t *testing.T) {
	m := start(t)
	const n, size = 3, 3 * 32 * 32
	binaryInput := make([]byte, 0, 4*n*size)
	for i := range n {
		for j := range size {
			v := float32(0)
			if j < 32*32 { // plane of red
				v = float32(i) / 2
			}
			binaryInput = binary.LittleEndian.AppendUint32(binaryInput, math.Float32bits(v))
		}
	}
	head := fmt.Sprintf(`{"inputs":[{"name":"input","shape":[%d,3,32,32],"datatype":"FP32","parameters":{"binary_data_size":%d}}],"outputs":[{"name":"logit","parameters":{"binary_data":true}},{"name":"embedding"}]}`, n, len(binaryInput))
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/v2/models/fakeart/infer", io.MultiReader(strings.NewReader(head), bytes.NewReader(binaryInput)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(oip.LengthHeader, fmt.Sprint(len(head)))
	response, body := send(t, request)
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != oip.TypeBinary {
		t.Fatalf("status %d, %s: %s", response.StatusCode, response.Header.Get("Content-Type"), body)
	}
	var length int
	if _, err := fmt.Sscan(response.Header.Get(oip.LengthHeader), &length); err != nil || len(body)-length != 4*n {
		t.Fatalf("header %q for %d bytes: %v", response.Header.Get(oip.LengthHeader), len(body), err)
	}
	var respBody oip.InferResponse
	if err := json.Unmarshal(body[:length], &respBody); err != nil || respBody.ModelVersion != inUse(m) || len(respBody.Outputs) != 2 || len(respBody.Outputs[1].Data) != 3*n {
		t.Fatalf("%s: %v", body[:length], err)
	}
	for i := range n {
		want := 8*float32(i)/2 - 4
		if got := math.Float32frombits(binary.LittleEndian.Uint32(body[length+4*i:])); math.Abs(float64(got-want)) > 1e-5 {
			t.Errorf("logit %d is %g, want %g", i, got, want)
		}
		if got := respBody.Outputs[1].Data[3*i]; got != float32(i)/2 {
			t.Errorf("embedding %d begins with %g", i, got)
		}
	}
	// Each image has a record.
	waitFor(t, "the records", func() bool { return metric(t, m, `fakeart_log_records_total{result="written"}`) == n })
	page := logPage(t, m, "")
	if len(page.Records) != n || page.Records[0].ImageFormat != tensorFormat || page.Records[0].Width != 32 || page.Records[n-1].Label != "REAL" || page.Records[0].Label != "FAKE" {
		t.Errorf("records %+v", page.Records)
	}
}

func TestV2Infer_InputOutOfRange(t *testing.T) {
	m := start(t)
	const size = 3 * 32 * 32
	zeros := strings.Repeat("0,", size-1)
	for name, test := range map[string]struct{ value, want string }{
		"pixel":     {"200", "value 3071 is 200: expected 0 to 1; divide values from 0 to 255 by 255"},
		"negative":  {"-0.5", "value 3071 is -0.5: expected 0 to 1"},
		"above_one": {"1.001", "value 3071 is 1.001: expected 0 to 1"},
		"huge":      {"3e38", "value 3071 is 3e+38: expected 0 to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := do(t, "POST", m.URL()+"/v2/models/fakeart/infer", "application/json",
				fmt.Appendf(nil, `{"inputs":[{"name":"input","shape":[1,3,32,32],"datatype":"FP32","data":[%s%s]}]}`, zeros, test.value))
			if response.StatusCode != 400 || !bytes.Contains(body, []byte(test.want+`"`)) {
				t.Errorf("JSON: status %d: %s", response.StatusCode, body)
			}
			value, err := strconv.ParseFloat(test.value, 32)
			if err != nil {
				t.Fatal(err)
			}
			request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/v2/models/fakeart/infer",
				bytes.NewReader(binary.LittleEndian.AppendUint32(make([]byte, 4*(size-1)), math.Float32bits(float32(value)))))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set(oip.LengthHeader, "0")
			response, body = send(t, request)
			if response.StatusCode != 400 || !bytes.Contains(body, []byte(test.want+`"`)) {
				t.Errorf("binary: status %d: %s", response.StatusCode, body)
			}
		})
	}
}

func TestQuery_Invalid(t *testing.T) {
	m := start(t, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	img := pngOf(t, solid(red, 32, 32))
	for _, test := range []struct{ method, path, want string }{
		{"POST", "/predict?embedding=null&embedding=null", "invalid embedding=\"null\"; use true or false"},
		{"POST", "/predict?embedding=true&embedding=true", "the parameter embedding is given more than once"},
		{"POST", "/predict?embedding=1", "use true or false"},
		{"GET", "/log?cursor=0", "use the field next of the previous page"},
		{"POST", "/predict?embedding=TRUE", "use true or false"},
		{"POST", "/predict?embedding=", "use true or false"},
		{"POST", "/predict?embedding", "use true or false"},
		{"POST", "/model/?embedding=yes", "use true or false"},
		{"POST", "/predict?input=", "use png"},
		{"POST", "/predict?input=PNG", "use png"},
		{"POST", "/predict?explain=", "use one of gradcam, occlusion"},
		{"POST", "/predict?explain=gradcam&explain=occlusion", "more than once"},
		{"POST", "/predict?explain=occlusion&explain_format=", "use one of array, png"},
		{"POST", "/predict?embeding=true", "unknown parameter \"embeding\"; use model, top, embedding, input, explain, explain_format"},
		{"POST", "/predict?Embedding=true", "unknown parameter"},
		{"GET", "/log?limit=0", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=1001", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=+5", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=005", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=5.0", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=99999999999999999999", "use a whole number from 1 to 1000"},
		{"GET", "/log?limit=5&limit=5", "more than once"},
		{"GET", "/log?page=2", "unknown parameter \"page\"; use limit, cursor"},
		{"GET", "/log/export?format=", "use one of ndjson, csv, parquet, sqlite"},
		{"GET", "/log/export?format=csv&format=csv", "more than once"},
		{"GET", "/stats?x=1", "unknown parameter \"x\"; this route has none"},
		{"GET", "/healthz?x", "this route has none"},
		{"GET", "/metrics?x=1", "this route has none"},
		{"GET", "/v2/models/fakeart?x=1", "this route has none"},
	} {
		response, body := do(t, test.method, m.URL()+test.path, "", img)
		var detail struct{ Detail, Error string }
		if err := json.Unmarshal(body, &detail); err != nil || response.StatusCode != 400 || !strings.Contains(detail.Detail+detail.Error, test.want) {
			t.Errorf("%s %s: status %d, %s, want 400 and %q", test.method, test.path, response.StatusCode, body, test.want)
		}
	}
	for _, test := range []struct{ method, path string }{
		{"POST", "/predict?embedding=true&input=png"},
		{"POST", "/predict?embedding=false"},
		{"POST", "/predict?%65mbedding=true"},
		{"GET", "/log?limit=5&cursor="},
		{"GET", "/log/export?format=csv"},
		{"GET", "/docs?from=elsewhere"},
	} {
		if response, body := do(t, test.method, m.URL()+test.path, "", img); response.StatusCode != 200 {
			t.Errorf("%s %s: status %d: %.200s", test.method, test.path, response.StatusCode, body)
		}
	}
}

func TestV2Infer_Timeout(t *testing.T) {
	m, _ := startBlocked(t)
	values := strings.TrimSuffix(strings.Repeat("0,", 3*32*32), ",")
	response, body := do(t, "POST", m.URL()+"/v2/models/fakeart/infer", "application/json",
		fmt.Appendf(nil, `{"parameters":{"timeout":30000},"inputs":[{"name":"input","shape":[1,3,32,32],"datatype":"FP32","data":[%s]}]}`, values))
	if response.StatusCode != 503 || !bytes.Contains(body, []byte(`{"error":"the request timed out"`)) {
		t.Errorf("status %d: %s", response.StatusCode, body)
	}
}
