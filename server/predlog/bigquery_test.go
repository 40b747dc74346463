package predlog

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "update the schema files")

// schemas maps the files with the tables' schemas to the types of their messages.
var schemas = map[string]reflect.Type{"bigquery-schema.json": reflect.TypeFor[Row](), "bigquery-feedback-schema.json": reflect.TypeFor[Feedback]()}

// bigQueryField is a column in the format of `bq mk --table`
// (https://cloud.google.com/bigquery/docs/schemas#specifying_a_json_schema_file).
type bigQueryField struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Mode        string `json:"mode"`
	Description string `json:"description"`
}

// nullable are the columns that a message may omit. A required column can become nullable later,
// but not the other way round.
var nullable = map[string]bool{
	"request_id": true, "trace_id": true, "image": true, "comment": true,
	"orientation": true, "model_name": true, // added later, which BigQuery allows only for nullable columns
}

// bigQuerySchema returns the columns for a row type.
func bigQuerySchema(row reflect.Type) (fields []bigQueryField) {
	for i := range row.NumField() {
		f := row.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		column := bigQueryField{Name: name, Mode: "REQUIRED", Description: f.Tag.Get("doc")}
		if nullable[name] {
			column.Mode = "NULLABLE"
		}
		switch f.Type {
		case reflect.TypeFor[string]():
			column.Type = "STRING"
		case reflect.TypeFor[time.Time]():
			column.Type = "TIMESTAMP"
		case reflect.TypeFor[float64]():
			column.Type = "FLOAT64"
		case reflect.TypeFor[int64]():
			column.Type = "INT64"
		case reflect.TypeFor[[]float32]():
			column.Type, column.Mode = "FLOAT64", "REPEATED"
		case reflect.TypeFor[[]byte]():
			column.Type = "BYTES"
		default:
			panic(f.Type)
		}
		fields = append(fields, column)
	}
	return fields
}

func TestBigQuerySchemas(t *testing.T) {
	for file, row := range schemas {
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(bigQuerySchema(row)); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s doesn't match %s\nhint: run go generate ./server/predlog", file, row.Name())
		}
	}
}

// A BigQuery subscription that uses the table's schema accepts a message if its fields are columns
// and its values match the columns' types
// (https://cloud.google.com/pubsub/docs/bigquery#properties_subscription).
func TestMessage_FitsBigQuerySchema(t *testing.T) {
	row := func(change func(*Record)) []byte {
		r := newRecord(0)
		change(r)
		row := r.row()
		m := new(PubSub).message(0, &row)
		if m.err != nil {
			t.Fatal(m.err)
		}
		return m.body
	}
	feedback := func(comment string) []byte { return []byte(mustJSON(t, on(newRecord(0), "REAL", comment, 0))) }
	for _, test := range []struct {
		name, file string
		message    []byte
	}{
		{"record", "bigquery-schema.json", row(func(*Record) {})},
		{"record with image", "bigquery-schema.json", row(func(r *Record) { r.Image = []byte("\xff\xd8\xff") })},
		{"minimal record", "bigquery-schema.json", row(func(r *Record) {
			*r = Record{Time: r.Time, Model: r.Model, Label: r.Label, ImageFormat: r.ImageFormat}
		})},
		{"feedback", "bigquery-feedback-schema.json", feedback("no, \"mine\"")},
		{"feedback without comment", "bigquery-feedback-schema.json", feedback("")},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := os.ReadFile(test.file)
			if err != nil {
				t.Fatal(err)
			}
			var schema []bigQueryField
			if err := json.Unmarshal(data, &schema); err != nil {
				t.Fatal(err)
			}
			fields := map[string]any{}
			if err := json.Unmarshal(test.message, &fields); err != nil {
				t.Fatal(err)
			}
			for _, column := range schema {
				value, ok := fields[column.Name]
				delete(fields, column.Name)
				switch {
				case !ok && column.Mode == "NULLABLE":
				case !ok || value == nil:
					t.Errorf("%s: missing, but is %s", column.Name, column.Mode)
				case column.Mode == "REPEATED":
					list, ok := value.([]any)
					if !ok {
						t.Errorf("%s: %v isn't a list", column.Name, value)
					}
					for _, v := range list {
						fits(t, column, v)
					}
				default:
					fits(t, column, value)
				}
			}
			for name := range fields {
				t.Errorf("%s: unknown column", name)
			}
		})
	}
}

func fits(t *testing.T, column bigQueryField, value any) {
	t.Helper()
	text, isText := value.(string)
	number, isNumber := value.(float64)
	ok := false
	switch column.Type {
	case "STRING":
		ok = isText
	case "TIMESTAMP":
		_, err := time.Parse("2006-01-02T15:04:05.000000Z", text)
		ok = isText && err == nil
	case "BYTES":
		_, err := base64.StdEncoding.DecodeString(text)
		ok = isText && err == nil
	case "FLOAT64":
		ok = isNumber
	case "INT64":
		ok = isNumber && number == float64(int64(number))
	}
	if !ok {
		t.Errorf("%s: %v isn't a valid %s", column.Name, value, column.Type)
	}
}
