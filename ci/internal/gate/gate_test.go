package gate

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, minimum := range []float64{0, 0.5, 0.984} {
		if got, err := Check([]byte(`{"accuracy":0.984,"count":1000}`), minimum); err != nil || got != 0.984 {
			t.Errorf("Check(minimum %v) = %v, %v, want 0.984", minimum, got, err)
		}
	}
}

func TestCheck_errors(t *testing.T) {
	for _, c := range []struct {
		eval    string
		minimum float64
		want    string
	}{
		{`{"accuracy":0.984,"count":1000}`, 0.985, "accuracy 0.9840 on 1000 images is below the minimum, 0.9850"},
		{`{"accuracy":0.984,"count":0}`, 0.5, "measured on 0 images"},
		{`{"count":10}`, 0, "has no accuracy"},
		{`{`, 0.5, "read the run's eval.json"},
		{`{"accuracy":0.984,"count":1000}`, 90, "isn't between 0 and 1"},
		{`{"accuracy":0.984,"count":1000}`, -1, "isn't between 0 and 1"},
	} {
		if _, err := Check([]byte(c.eval), c.minimum); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check(%s, %v): error %v, want %q", c.eval, c.minimum, err, c.want)
		}
	}
}
