package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestThePictureHasEveryComponentAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/infra.md")
	if err != nil {
		t.Fatal(err)
	}
	components := map[string]bool{}
	for _, r := range mustUp(t, "prod", balanced(nil)) {
		if match := regexp.MustCompile(`fakeart:infra:(\w+)::`).FindStringSubmatch(r.parent); match != nil {
			components[match[1]] = true
		}
	}
	_, picture, _ := strings.Cut(string(text), "```mermaid\n")
	picture, _, _ = strings.Cut(picture, "```")
	drawn := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^    ([A-Z]\w+)[\[(]`).FindAllStringSubmatch(picture, -1) {
		drawn[match[1]] = true
	}
	if !reflect.DeepEqual(components, drawn) {
		t.Errorf("docs/reference/infra.md draws %v, the program makes %v", drawn, components)
	}
}
