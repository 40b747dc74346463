package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Weights returns the weights of experiment.class_weights by class name, or nil if it is ClassWeightsNone or
// ClassWeightsBalanced.
func (e Experiment) Weights() (map[string]float64, error) {
	if e.ClassWeights == ClassWeightsNone || e.ClassWeights == ClassWeightsBalanced {
		return nil, nil
	}
	weights := map[string]float64{}
	for item := range strings.SplitSeq(e.ClassWeights, ",") {
		i := strings.LastIndex(item, "=")
		if i < 1 {
			return nil, errors.New("it must be \"none\", \"balanced\" or a list such as cat=2,dog=0.5")
		}
		name := strings.TrimSpace(item[:i])
		w, err := strconv.ParseFloat(strings.TrimSpace(item[i+1:]), 64)
		if err != nil || !(w > 0) || math.IsInf(w, 1) {
			return nil, fmt.Errorf("the weight of %s must be a finite number above 0", name)
		}
		if _, twice := weights[name]; twice {
			return nil, fmt.Errorf("%s has two weights", name)
		}
		weights[name] = w
	}
	return weights, nil
}
