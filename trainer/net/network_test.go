package net

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestNew_InvalidConfig(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name   string
		config Config
		want   string
	}{
		{"no_blocks", Config{Size: 32, Classes: 2, Dense: []int{4}}, "channels [] and dense [4] each need at least one element"},
		{"no_hidden_layer", Config{Size: 32, Classes: 2, Channels: []int{4}}, "channels [4] and dense [] each need at least one element"},
		{"block_without_channels", Config{Size: 32, Classes: 2, Channels: []int{4, 0}, Dense: []int{4}}, "block2 has 0 channels"},
		{"negative_width", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4, -1}}, "dense2 has width -1"},
		{"too_many_blocks", Config{Size: 32, Classes: 2, Channels: []int{1, 1, 1, 1, 1, 1}, Dense: []int{4}}, "cannot halve an image of 32×32 pixels 6 times"},
		{
			"size_not_divisible",
			Config{Size: 50, Classes: 2, Channels: []int{4, 4}, Dense: []int{4}},
			"cannot halve an image of 50×50 pixels 2 times\nhint: shorten model.channels to length 1, or prepare the dataset with a dataset.size that is divisible by 4",
		},
		{"size_zero", Config{Classes: 2, Channels: []int{4}, Dense: []int{4}}, "size is 0, want at least 2"},
		{"size_negative", Config{Size: -32, Classes: 2, Channels: []int{4}, Dense: []int{4}}, "size is -32"},
		{"one_class", Config{Size: 32, Classes: 1, Channels: []int{4}, Dense: []int{4}}, "1 classes, want 2 to 10000"},
		{"too_many_classes", Config{Size: 32, Classes: 10_001, Channels: []int{4}, Dense: []int{4}}, "10001 classes"},
		{"negative_stem", Config{Size: 32, Classes: 2, Stem: -1, Channels: []int{4}, Dense: []int{4}}, "stem has -1 channels, want at least 1"},
		{"residual_too_short", Config{Size: 32, Classes: 2, Channels: []int{4, 4}, Residual: []int{1}, Dense: []int{4}}, "residual [1] needs one element for each of the 2 blocks"},
		{"residual_negative", Config{Size: 32, Classes: 2, Channels: []int{4}, Residual: []int{-1}, Dense: []int{4}}, "block1 has -1 residual units, want 0 to 100"},
		{"slope_negative", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Slope: -0.1}, "slope -0.1"},
		{"slope_one", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Slope: 1}, "slope 1"},
		{"slope_NaN", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Slope: nan}, "slope NaN"},
		{"dropout_one", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Dropout: 1}, "dropout 1"},
		{"dropout_negative", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Dropout: -0.5}, "dropout -0.5"},
		{"dropout_NaN", Config{Size: 32, Classes: 2, Channels: []int{4}, Dense: []int{4}, Dropout: nan}, "dropout NaN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := New(c.config)
			if n != nil || err == nil || !strings.HasPrefix(err.Error(), "network: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New(%+v) error = %v, want %q", c.config, err, c.want)
			}
		})
	}
}

func TestNetwork_Params(t *testing.T) {
	n := newNetwork(t, cifake)
	type entry struct {
		name  string
		shape []int64
	}
	want := []entry{
		{"block1.conv.weight", []int64{32, 3, 3, 3}},
		{"block1.norm.weight", []int64{32}},
		{"block1.norm.bias", []int64{32}},
		{"block2.conv.weight", []int64{64, 32, 3, 3}},
		{"block2.norm.weight", []int64{64}},
		{"block2.norm.bias", []int64{64}},
		{"block3.conv.weight", []int64{128, 64, 3, 3}},
		{"block3.norm.weight", []int64{128}},
		{"block3.norm.bias", []int64{128}},
		{"dense1.weight", []int64{256, 2048}},
		{"dense1.bias", []int64{256}},
		{"dense2.weight", []int64{128, 256}},
		{"dense2.bias", []int64{128}},
		{"dense3.weight", []int64{1, 128}},
		{"dense3.bias", []int64{1}},
	}
	offset := 0
	params := n.Params()
	for i, p := range params {
		if p.Name != want[i].name || !slices.Equal(p.Shape, want[i].shape) || p.Offset != offset {
			t.Errorf("parameter %d = %s %v at offset %d, want %s %v at offset %d", i, p.Name, p.Shape, p.Offset, want[i].name, want[i].shape, offset)
		}
		offset += p.Size
	}
	if len(params) != len(want) || n.Size() != offset || n.Embedding() != 128 {
		t.Errorf("%d parameters, size %d, embedding %d; want %d, %d, 128", len(params), n.Size(), n.Embedding(), len(want), offset)
	}
	var names []string
	for _, p := range newNetwork(t, residual).Params() {
		if strings.HasSuffix(p.Name, ".conv.weight") || strings.HasSuffix(p.Name, ".bias") && !strings.Contains(p.Name, "norm") {
			names = append(names, fmt.Sprint(p.Name, p.Shape))
		}
	}
	if want := []string{
		"stem.conv.weight[16 3 3 3]", "block1.conv.weight[16 16 3 3]", "block1.unit1.first.conv.weight[16 16 3 3]",
		"block1.unit1.second.conv.weight[16 16 3 3]", "block2.conv.weight[32 16 3 3]", "block2.unit1.first.conv.weight[32 32 3 3]",
		"block2.unit1.second.conv.weight[32 32 3 3]", "block2.unit2.first.conv.weight[32 32 3 3]",
		"block2.unit2.second.conv.weight[32 32 3 3]", "dense1.bias[5]",
	}; !slices.Equal(names, want) {
		t.Errorf("parameters of the residual network: %q, want %q", names, want)
	}
	params[0].Name = "changed"
	if n.Params()[0].Name == "changed" {
		t.Error("Params does not return a copy")
	}
}

func TestNetwork_Init(t *testing.T) {
	n := newNetwork(t, cifake)
	w := n.Init(420)
	for _, p := range n.params {
		data := wide(w.Params[p.Offset : p.Offset+p.Size])
		switch p.init {
		case initOne, initZero:
			want := 0.0
			if p.init == initOne {
				want = 1
			}
			for _, v := range data {
				if v != want {
					t.Fatalf("%s = %v, want %v", p.Name, v, want)
				}
			}
		case initUniform:
			bound := 1 / math.Sqrt(float64(p.fanIn))
			if m := largest(data); m > bound*(1+1e-6) {
				t.Errorf("%s: largest magnitude %v, want at most %v", p.Name, m, bound)
			}
			if p.Size < 500 {
				continue // too few for moments
			}
			var mean, square float64
			for _, v := range data {
				mean += v / float64(p.Size)
				square += v * v / float64(p.Size)
			}
			// Five standard deviations of each of the two moments of n uniform numbers.
			root := math.Sqrt(float64(p.Size))
			if math.Abs(mean) > 5*bound/math.Sqrt(3)/root || math.Abs(square-bound*bound/3) > 5*bound*bound*0.3/root {
				t.Errorf("%s: mean %v, mean square %v; want a uniform distribution within ±%v", p.Name, mean, square, bound)
			}
		}
	}
	sameBits(t, "weights of the same seed", n.Init(420).Params, w.Params)
	if slices.Equal(n.Init(421).Params, w.Params) {
		t.Error("seeds 420 and 421 give the same weights")
	}
	if largest(wide(w.Mean)) != 0 || slices.ContainsFunc(w.Var, func(v float32) bool { return v != 1 }) {
		t.Error("initial running means and variances are not 0 and 1")
	}
}
