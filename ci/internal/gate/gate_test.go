package gate

import (
	"strings"
	"testing"
)

func TestAModelThatIsGoodEnoughPasses(t *testing.T) {
	for _, least := range []float64{0, 0.5, 0.984} {
		if got, err := Check([]byte(`{"accuracy":0.984,"count":1000}`), least); err != nil || got != 0.984 {
			t.Errorf("at least %v: %v, %v", least, got, err)
		}
	}
}

func TestAModelThatIsNotDoesNot(t *testing.T) {
	for _, c := range []struct {
		eval  string
		least float64
		want  string
	}{
		{`{"accuracy":0.984,"count":1000}`, 0.985, "accuracy 0.9840 on 1000 pictures, at least 0.9850 is asked for"},
		{`{"accuracy":0.984,"count":0}`, 0.5, "of no pictures"},
		{`{"count":10}`, 0, "has no accuracy"},
		{`{`, 0.5, "eval.json of the run"},
		{`{"accuracy":0.984,"count":1000}`, 90, "isn't between 0 and 1"},
		{`{"accuracy":0.984,"count":1000}`, -1, "isn't between 0 and 1"},
	} {
		if _, err := Check([]byte(c.eval), c.least); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, at least %v: error %v, want %q", c.eval, c.least, err, c.want)
		}
	}
}
