package train

import (
	"fmt"
	"math"
	"testing"

	"fakeart/internal/config"
)

func TestLearningRate(t *testing.T) {
	const lr = 0.5
	cosine := func(at float64) float64 { return lr * 0.5 * (1 + math.Cos(math.Pi*at)) }
	for _, test := range []struct {
		name          string
		schedule      string
		epochs, steps int
		warmup        float64
		want          map[int]float64 // by step
	}{
		{"constant", "constant", 3, 10, 0, map[int]float64{0: lr, 1: lr, 15: lr, 29: lr}},
		{"constant_warmup", "constant", 3, 10, 1, map[int]float64{0: lr / 11, 4: lr * 5 / 11, 9: lr * 10 / 11, 10: lr, 29: lr}},
		{"cosine", "cosine", 3, 10, 0, map[int]float64{0: lr, 15: lr / 2, 10: cosine(1.0 / 3), 29: cosine(29.0 / 30)}},
		{"cosine_warmup_half_epoch", "cosine", 2, 10, 0.5, map[int]float64{0: lr / 6, 4: lr * 5 / 6, 5: lr, 19: cosine(14.0 / 15)}},
		{"warmup_ends_within_step", "cosine", 2, 10, 0.25, map[int]float64{0: lr / 3, 1: lr * 2 / 3, 2: lr, 3: cosine(0.5 / 17.5)}},
		{"warmup_shorter_than_step", "cosine", 1, 4, 0.01, map[int]float64{0: lr, 1: cosine(0.96 / 3.96)}},
		{"cosine_only_warmup", "cosine", 2, 10, 2, map[int]float64{0: lr / 21, 19: lr * 20 / 21}},
		{"constant_only_warmup", "constant", 2, 10, 2, map[int]float64{0: lr / 21, 19: lr * 20 / 21}},
		{"cosine_one_step", "cosine", 1, 1, 0, map[int]float64{0: lr}},
		{"constant_one_step", "constant", 1, 1, 0, map[int]float64{0: lr}},
		{"one_step_warmup", "cosine", 1, 1, 1, map[int]float64{0: lr / 2}},
		// torch.optim.lr_scheduler.OneCycleLR(max_lr=0.5, total_steps=20, pct_start=0.25)
		{"onecycle", "onecycle", 2, 10, 0.5, map[int]float64{
			0: 0.02, 1: 0.09029437251522862, 4: 0.5, 5: 0.4945369220358507, 12: 0.22386898871154995, 18: 0.005465077964149312, 19: 2e-06,
		}},
		{"onecycle_without_warmup", "onecycle", 2, 10, 0, map[int]float64{0: lr, 19: 2e-06}},
		{"onecycle_one_step", "onecycle", 1, 1, 0.5, map[int]float64{0: 2e-06}},
		{"one_step_half_warmup", "cosine", 1, 1, 0.5, map[int]float64{0: lr}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := &config.Config{Optimizer: config.Optimizer{LR: lr}, Experiment: config.Experiment{
				Epochs: test.epochs, Schedule: test.schedule, WarmupEpochs: test.warmup,
			}}
			for step, want := range test.want {
				if got := learningRate(cfg, step, test.steps); math.Abs(got-want) > 1e-12 {
					t.Errorf("learningRate(step %d) = %v, want %v", step, got, want)
				}
			}
		})
	}
}

// For any fraction of warm-up, the rate increases to its peak, never exceeds it, then never
// increases again. It is always positive, since a step with a rate of zero would be wasted.
func TestLearningRate_Unimodal(t *testing.T) {
	for _, schedule := range []string{"constant", "cosine"} {
		for _, epochs := range []int{1, 2, 7} {
			for _, steps := range []int{1, 3, 10, 97} {
				for _, warmup := range []float64{0, 1e-9, 0.1, 0.3, 1.0 / 3, 0.5, 0.7, 0.999, 1, 1.1, 6.999, 7} {
					if warmup > float64(epochs) {
						continue
					}
					name := fmt.Sprintf("%s, %d epochs of %d steps, warm-up %v", schedule, epochs, steps, warmup)
					cfg := &config.Config{Optimizer: config.Optimizer{LR: 1}, Experiment: config.Experiment{
						Epochs: epochs, Schedule: schedule, WarmupEpochs: warmup,
					}}
					before, fell := 0.0, false
					for step := range epochs * steps {
						rate := learningRate(cfg, step, steps)
						if !(rate > 0 && rate <= 1) {
							t.Fatalf("%s: rate at step %d = %v, want a value in (0,1]", name, step, rate)
						}
						if fell && rate > before {
							t.Fatalf("%s: the rate increases again at step %d, from %v to %v", name, step, before, rate)
						}
						fell = fell || rate < before
						before = rate
					}
				}
			}
		}
	}
}
