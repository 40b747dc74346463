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

var update = flag.Bool("update", false, "write bigquery-schema.json anew")

const schemaFile = "bigquery-schema.json"

// bigQueryField is a column as `bq mk --table` reads it
// (https://cloud.google.com/bigquery/docs/schemas#specifying_a_json_schema_file).
type bigQueryField struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Mode        string `json:"mode"`
	Description string `json:"description"`
}

// nullable are the columns that a message may do without. The others are always
// there; a required column can be made nullable later, but not the other way round.
var nullable = map[string]bool{"request_id": true, "trace_id": true, "image": true}

// bigQuerySchema derives the columns from Row.
func bigQuerySchema() (fields []bigQueryField) {
	row := reflect.TypeFor[Row]()
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

func TestTheBigQuerySchemaIsThatOfRow(t *testing.T) {
	var want bytes.Buffer
	encoder := json.NewEncoder(&want)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(bigQuerySchema()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not that of Row any more; run go generate ./server/predlog", schemaFile)
	}
}

// A BigQuery subscription that uses the table's schema takes a message whose fields
// are columns, with values that the columns' types take
// (https://cloud.google.com/pubsub/docs/bigquery#properties_subscription).
func TestAMessageFitsTheBigQuerySchema(t *testing.T) {
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema []bigQueryField
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*Record)
	}{
		{"a usual one", func(*Record) {}},
		{"with a picture", func(r *Record) { r.Image = []byte("\xff\xd8\xff") }},
		{"with as little as possible", func(r *Record) {
			*r = Record{Time: r.Time, Model: r.Model, Label: r.Label, ImageFormat: r.ImageFormat}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRecord(0)
			test.change(r)
			row := r.row()
			message, err := new(PubSub).message(&row)
			if err != nil {
				t.Fatal(err)
			}
			fields := map[string]any{}
			if err := json.Unmarshal(message, &fields); err != nil {
				t.Fatal(err)
			}
			for _, column := range schema {
				value, ok := fields[column.Name]
				delete(fields, column.Name)
				switch {
				case !ok && column.Mode == "NULLABLE":
				case !ok || value == nil:
					t.Errorf("%s: missing, and is %s", column.Name, column.Mode)
				case column.Mode == "REPEATED":
					list, ok := value.([]any)
					if !ok {
						t.Errorf("%s: %v is no list", column.Name, value)
					}
					for _, v := range list {
						fits(t, column, v)
					}
				default:
					fits(t, column, value)
				}
			}
			for name := range fields {
				t.Errorf("%s: no such column", name)
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
		t.Errorf("%s: %v is no %s", column.Name, value, column.Type)
	}
}
