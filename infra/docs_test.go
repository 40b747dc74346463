package main

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTheDocumentationHasEveryKeyAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/infra.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, kind := 0, reflect.TypeFor[Config](); i < kind.NumField(); i++ {
		tag := kind.Field(i).Tag
		if key := tag.Get("key"); key != "" {
			usual := tag.Get("default")
			if usual != "" {
				usual = "`" + usual + "`"
			}
			want = append(want, fmt.Sprintf("| `%s` | %s | %s |", key, usual, tag.Get("doc")))
		}
	}
	_, table, _ := strings.Cut(string(text), "| key | default | |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if got := strings.Split(table, "\n"); !slices.Equal(got, want) {
		t.Errorf("docs/reference/infra.md has\n%s\nwant\n%s", table, strings.Join(want, "\n"))
	}
}

func TestThePictureHasEveryComponentAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/infra.md")
	if err != nil {
		t.Fatal(err)
	}
	components := map[string]bool{}
	for _, r := range mustUp(t, "prod", nil) {
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
