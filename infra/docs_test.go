package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The diagram in docs/reference/infra.md shows all components of the program, and no others.
func TestDocs_InfraDiagram(t *testing.T) {
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
	_, diagram, _ := strings.Cut(string(text), "```mermaid\n")
	diagram, _, _ = strings.Cut(diagram, "```")
	drawn := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^    ([A-Z]\w+)[\[(]`).FindAllStringSubmatch(diagram, -1) {
		drawn[match[1]] = true
	}
	if !reflect.DeepEqual(components, drawn) {
		t.Errorf("docs/reference/infra.md shows the components %v, want %v", drawn, components)
	}
}
