//go:build race

package infer

// raced tells that the race detector is at work, which makes pools forget on purpose.
const raced = true
