package imaging

import "testing"

func TestPaeth(t *testing.T) {
	distance := func(a, b int) int { return max(a-b, b-a) }
	step := 5
	if testing.Short() {
		step = 17
	}
	for a := 0; a < 256; a += step {
		for b := range 256 {
			for c := range 256 {
				p := a + b - c
				want := a // as in the standard
				if distance(p, b) < distance(p, a) {
					want = b
				}
				if distance(p, c) < distance(p, want) {
					want = c
				}
				if got := paeth(a, b, c); got != want {
					t.Fatalf("paeth(%d, %d, %d) = %d, want %d", a, b, c, got, want)
				}
			}
		}
	}
}
