package otelenv

import (
	"os"
	"slices"
	"testing"
)

func TestWithout(t *testing.T) {
	environ := []string{
		"PATH=/bin", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1", "OTEL_SERVICE_NAME=", "TRACEPARENT=00-a-b-01", "TRACESTATE=a=b",
		"BAGGAGE=k=v", "HOTEL_NAME=x", "TRACEPARENTS=y", "OTEL", "NOTE=OTEL_X=1",
	}
	before := slices.Clone(environ)
	want := []string{"PATH=/bin", "HOTEL_NAME=x", "TRACEPARENTS=y", "OTEL", "NOTE=OTEL_X=1"}
	if got := Without(environ); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !slices.Equal(environ, before) {
		t.Errorf("the argument became %q", environ)
	}
}

func TestClear(t *testing.T) {
	set := []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED", "TRACEPARENT", "TRACESTATE", "BAGGAGE"}
	for _, name := range append(set, "HOTEL_NAME") {
		t.Setenv(name, "x")
	}
	if err := Clear(); err != nil {
		t.Fatal(err)
	}
	for _, name := range set {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("%s is still %q", name, value)
		}
	}
	if os.Getenv("HOTEL_NAME") != "x" {
		t.Error("HOTEL_NAME is gone")
	}
}
