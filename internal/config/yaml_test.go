package config

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// A value is read by the same rules on the command line, in a file and in a list.
func TestLoad_ScalarRules(t *testing.T) {
	const wrong = "it must be"
	for _, test := range []struct {
		key, value string
		want       any // the value, or the part of the error that quotes it
	}{
		{"experiment.seed", "010", int64(10)},
		{"experiment.seed", "-010", int64(-10)},
		{"experiment.seed", "08", int64(8)},
		{"experiment.seed", "+7", int64(7)},
		{"experiment.seed", "0x10", int64(16)},
		{"experiment.seed", "0o17", int64(15)},
		{"experiment.seed", "0b11", int64(3)},
		{"experiment.seed", "1_000", int64(1000)},
		{"experiment.seed", "0_10", int64(10)},
		{"experiment.seed", "1e1", "experiment.seed is 1e1: it must be a whole number"},
		{"experiment.seed", "10.0", "experiment.seed is 10.0: it must be a whole number"},
		{"experiment.seed", `"10"`, `experiment.seed is "10": it must be a whole number`},
		{"experiment.seed", "1O", `experiment.seed is "1O": it must be a whole number`},
		{"experiment.seed", "~", "experiment.seed is ~: it must be a whole number"},
		{"experiment.seed", "null", "experiment.seed is null: it must be a whole number"},
		{"experiment.seed", "", "experiment.seed is empty: it must be a whole number"},
		{"experiment.seed", "2026-12-01", `experiment.seed is "2026-12-01": it must be a whole number`},
		{"experiment.seed", "99999999999999999999", "experiment.seed is 99999999999999999999: it must be a whole number from -9223372036854775808 to"},
		{"experiment.epochs", "00", "experiment.epochs is 00: it must be from 1"},
		{"model.channels", "[010,64]", []int{10, 64}},
		{"model.channels", "[0x10, 1_0]", []int{16, 10}},
		{"model.channels", "[1e1]", "model.channels is [1e1]: it must be a list of whole numbers"},
		{"model.channels", `["8"]`, `model.channels is ["8"]: it must be a list of whole numbers`},
		{"model.channels", "[8, ~]", "model.channels is [8,~]: it must be a list of whole numbers"},
		{"model.channels", "[00]", "model.channels is [00]: it must be a list of 1 to 10"},
		{"model.slope", ".5", 0.5},
		{"model.slope", "0.", 0.0},
		{"model.slope", "00.25", 0.25},
		{"model.slope", "1_0e-2", 0.1},
		{"model.slope", "0", 0.0},
		{"model.slope", "1e400", `model.slope is "1e400": it must be a number`},
		{"model.slope", ".inf", "model.slope is .inf: it must be at least 0"},
		{"model.slope", "-.NaN", `model.slope is "-.NaN": it must be a number`},
		{"model.slope", "inf", `model.slope is "inf": it must be a number`},
		{"model.slope", "0x1p-2", `model.slope is "0x1p-2": it must be a number`},
		{"model.slope", "0,5", `model.slope is "0,5": it must be a number`},
		{"augment.flip", "true", true},
		{"augment.flip", "False", false},
		{"augment.flip", "yes", `augment.flip is "yes": it must be true or false`},
		{"augment.flip", "on", `augment.flip is "on": it must be true or false`},
		{"augment.flip", "1", "augment.flip is 1: it must be true or false"},
		{"experiment.name", "null", "experiment.name is null: it must be a string"},
		{"experiment.name", "~", "experiment.name is ~: it must be a string"},
		{"experiment.name", `"null"`, "null"},
		{"experiment.name", "2026-12-01", "2026-12-01"},
		{"experiment.name", "yes", "yes"},
	} {
		group, name, _ := strings.Cut(test.key, ".")
		choice := map[string]string{"experiment": "base", "model": "cnn", "augment": "none"}[group]
		check := func(t *testing.T, c *Config, err error) {
			t.Helper()
			if message, isText := test.want.(string); isText && strings.Contains(message, wrong) {
				wantParts(t, err, []string{message})
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.flat()[test.key]; !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s is %#v, want %#v", test.key, got, test.want)
			}
		}
		t.Run(test.key+"="+test.value+"/override", func(t *testing.T) {
			c, err := Load("", []string{test.key + "=" + test.value})
			check(t, c, err)
		})
		t.Run(test.key+"="+test.value+"/file", func(t *testing.T) {
			text := fmt.Sprintf("defaults: [%s]\n%s: %s\n", choice, name, test.value)
			c, err := Load(folder(t, map[string]string{group + "/derived.yaml": text}), []string{group + "=derived"})
			check(t, c, err)
		})
	}
}

func TestLoad_NullIsNoFolder(t *testing.T) {
	for _, null := range []string{"null", "Null", "NULL", "~", " null"} {
		_, err := Load("", []string{"run.dir=" + null})
		wantParts(t, err, []string{"run.dir is " + strings.TrimSpace(null) + ": it must be a string", "run.dir= for an empty one"})
		_, err = Load("", []string{"run.dir=${run.name}", "run.name=" + null})
		wantParts(t, err, []string{"run.name is " + strings.TrimSpace(null)})
	}
	if c := load(t, `run.dir="null"`); c.Run.Dir != "null" {
		t.Errorf("run.dir is %q, want the quoted text", c.Run.Dir)
	}
}

func TestLoad_Quotes(t *testing.T) {
	for _, value := range []string{`"a`, `'a`, `"a"b`, `"a" 'b'`, `"a": b`} {
		_, err := Load("", []string{"run.dir=" + value})
		wantParts(t, err, []string{"run.dir=" + value, "one pair of quotes"})
	}
	// A reference to a number in a string is its text, whether or not it's the whole string.
	for _, value := range []string{"${experiment.lr}", `"${experiment.lr}"`, "x${experiment.lr}"} {
		if c := load(t, "run.dir="+value); !strings.HasSuffix(c.Run.Dir, "0.001") {
			t.Errorf("run.dir=%s is %q", value, c.Run.Dir)
		}
	}
	_, err := Load("", []string{"run.dir=${${model.dense}}"})
	wantParts(t, err, []string{"run.dir", "is a list"})
}

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want map[string]any
		err  string
	}{
		"empty_file":         {text: ""},
		"comments":           {text: "# nothing\n"},
		"start_and_end":      {text: "---\na: 1\n...\n", want: map[string]any{"a": scalar{"1", false}}},
		"second_document":    {text: "a: 1\n---\nb: 2\n", err: "line 2: a second YAML document"},
		"empty_second":       {text: "a: 1\n---\n", err: "a second YAML document"},
		"duplicate_key":      {text: "a: 1\na: 2\n", err: `line 2: key "a" is already set on line 1`},
		"duplicate_in_depth": {text: "s:\n  a: 1\n  a: 2\n", err: `line 3: key "a" is already set on line 2`},
		"tab":                {text: "a:\n\tb: 1\n", err: "line 2: a tab in the indentation; YAML allows only spaces"},
		"tag":                {text: "a: !!str 1\n", err: "line 1: tags such as !!str are not supported"},
		"alias":              {text: "a: &x 010\nb: *x\n", want: map[string]any{"a": scalar{"010", false}, "b": scalar{"010", false}}},
		"unknown_alias":      {text: "a: *x\n", err: "unknown anchor 'x' referenced"},
		"merge_key": {
			text: "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n",
			want: map[string]any{
				"a": map[string]any{"b": scalar{"1", false}, "c": scalar{"2", false}},
				"d": map[string]any{"b": scalar{"1", false}, "c": scalar{"3", false}},
			},
		},
		"alias_of_itself":       {text: "a: &x {b: *x}\n", err: "an alias contains itself"},
		"alias_of_its_list":     {text: "a: &x [*x]\n", err: "an alias contains itself"},
		"aliases_that_multiply": {text: "a: &a [1,1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n", err: "too many values"},
		"scalar_at_top_level":   {text: "hello\n", err: `line 1: the file must consist of "key: value" lines`},
		"list_at_top_level":     {text: "- a\n", err: `line 1: the file must consist of "key: value" lines`},
		"null_at_top_level":     {text: "~\n"},
		"null_and_empty_value":  {text: "a: ~\nb:\n", want: map[string]any{"a": scalar{"~", false}, "b": scalar{"", false}}},
		"strings": {
			text: "a: 'x'\nb: y\nc: |\n  5\n",
			want: map[string]any{"a": scalar{"x", true}, "b": scalar{"y", true}, "c": scalar{"5\n", true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse([]byte(test.text))
			if test.err != "" {
				wantParts(t, err, []string{test.err})
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("parse(%q) = %v, %v; want %v", test.text, got, err, test.want)
			}
		})
	}
}

func TestLoad_KeySetTwice(t *testing.T) {
	dir := folder(t, nil)
	main, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	main = append(main, "experiment.epochs: 3\nexperiment: {epochs: 4}\n"...)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), main, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(dir, nil)
	wantParts(t, err, []string{"config.yaml", `key "experiment.epochs" is set twice`})
}

func TestLoad_InvalidValueIsReportedOnce(t *testing.T) {
	_, err := Load("", []string{"experiment.lr="})
	wantParts(t, err, []string{"experiment.lr is empty: it must be a number"})
	if strings.Contains(err.Error(), "optimizer.lr") {
		t.Errorf("error %q also names optimizer.lr, which refers to it", err)
	}
	_, err = Load("", []string{"experiment.patience=${experiment.lr}"}) // another kind
	wantParts(t, err, []string{"experiment.patience is 1.0e-3"})
}

func TestLoad_RemovedKey(t *testing.T) {
	_, err := Load("", []string{"evaluate.split=test"})
	wantParts(t, err, []string{"evaluate.split was removed", "trainer evaluate --split"})

	// A run that an older version started can be resumed.
	c := load(t)
	data, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, append(data, "  split: test\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := LoadFile(path)
	if err != nil || old.Digest() != c.Digest() {
		t.Errorf("LoadFile of an older run: %v, or another digest", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a: 1", "a: [010, ~]\n---\n", "a: &x {<<: *x}", "- {a: b}", "\tb", "a: !!float .nan", "? [a]\n: b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parse([]byte(text))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("parse(%q): the error has several lines: %q", text, err)
			}
			return
		}
		for _, v := range values {
			s, ok := v.(scalar)
			if !ok {
				continue
			}
			if n, inRange, ok := s.integer(); ok && inRange {
				if x, ok := s.float(); !ok || x != float64(n) {
					t.Errorf("%q is the whole number %d, but the number %v", s.text, n, x)
				}
			}
			if x, ok := s.float(); ok && s.isText {
				t.Errorf("the string %q is the number %v (%v)", s.text, x, math.IsNaN(x))
			}
		}
	})
}
