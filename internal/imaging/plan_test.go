package imaging

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/sbinet/npyio/npz"
)

// TestPlan_equalsPillow compares with the pixels written by testdata/make_plan_fixtures.py: those of Pillow, or of OpenCV
// without antialiasing.
func TestPlan_equalsPillow(t *testing.T) { eachKernel(t, testPlanFixtures) }

func testPlanFixtures(t *testing.T) {
	var cases []struct {
		Image         string
		Preprocessing json.RawMessage
	}
	if err := json.Unmarshal(readFile(t, "testdata/plans/cases.json"), &cases); err != nil {
		t.Fatal(err)
	}
	expected, err := npz.Open("testdata/plans/expected.npz")
	if err != nil {
		t.Fatal(err)
	}
	defer expected.Close()
	if len(cases) == 0 || len(cases) != len(expected.Keys()) {
		t.Fatalf("%d cases, but %d expected results; run testdata/make_plan_fixtures.py", len(cases), len(expected.Keys()))
	}
	for i, c := range cases {
		t.Run(fmt.Sprintf("%03d/%s", i, c.Image), func(t *testing.T) {
			p := Default()
			if err := json.Unmarshal(c.Preprocessing, &p); err != nil {
				t.Fatal(err)
			}
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			data := readFile(t, "testdata/plans/"+c.Image)
			got := make([]uint8, plan.Len())
			if err := plan.NewDecoder(0).Pixels(got, data); err != nil {
				t.Fatal(err)
			}
			var want []uint8
			if err := expected.Read(fmt.Sprintf("%03d.npy", i), &want); err != nil {
				t.Fatal(err)
			}
			tolerance := 0
			if !p.Antialias && p.Filter != Nearest {
				tolerance = 1 // OpenCV's coefficients have 11 bits
			}
			if len(got) != len(want) {
				t.Fatalf("%d bytes, want %d", len(got), len(want))
			}
			if dev := deviate(got, want); dev.max > tolerance {
				t.Errorf("%s: differs by up to %d levels, %.3f on average", c.Preprocessing, dev.max, dev.mean)
			}
		})
	}
}
