package ort

import (
	"testing"

	ortgo "github.com/yalue/onnxruntime_go"
)

func TestInit(t *testing.T) {
	for range 2 {
		if err := Init(); err != nil {
			t.Fatal(err)
		}
	}
	if Version() == "" {
		t.Fatal("no version after Init")
	}
	if !ortgo.IsInitialized() {
		t.Fatal("the binding is not initialized")
	}
	t.Log(Version())
}
