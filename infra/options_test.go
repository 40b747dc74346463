package main

import (
	"fmt"
	"strings"
	"testing"
)

// refusals runs the program with wrong configuration, which has to be refused, by key,
// before anything is made.
func refusals(t *testing.T, tests map[string]struct {
	change map[string]string
	words  []string
},
) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resources, err := up(t, "dev", test.change)
			if err == nil {
				t.Fatal("no error")
			}
			for _, word := range test.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if len(resources) > 0 {
				t.Errorf("%d resources were made", len(resources))
			}
		})
	}
}

// invokers lists who has the role run.invoker, by the names of the grants.
func invokers(resources []made) map[string]string {
	members := map[string]string{}
	for _, r := range resources {
		if r.kind == grantKind && r.value("role") == "roles/run.invoker" {
			members[r.name] = fmt.Sprint(r.value("member"))
		}
	}
	return members
}

func TestMembers(t *testing.T) {
	one := invokers(mustUp(t, "dev", map[string]string{"fakeart:members": `["user:ann@example.org"]`}))
	two := invokers(mustUp(t, "dev", map[string]string{"fakeart:members": `["group:team@example.org","user:ann@example.org"]`}))
	if len(one) != 1 || len(two) != 2 {
		t.Fatalf("invokers are %v, then %v", one, two)
	}
	for name, member := range one {
		if member != "user:ann@example.org" || two[name] != member {
			t.Errorf("the grant %s is of %s, then of %s", name, member, two[name])
		}
	}
}

func TestAudiences(t *testing.T) {
	service := find(t, mustUp(t, "dev", map[string]string{"fakeart:audiences": `["https://fakeart.example.org"]`}), serviceKind, "service")
	expect(t, service, map[string]any{"customAudiences.0": "https://fakeart.example.org"})
	plain := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	if plain.value("customAudiences") != nil {
		t.Errorf("without the key, audiences are %v", plain.value("customAudiences"))
	}
	if service.value("template.revision") != plain.value("template.revision") {
		t.Error("audiences make another revision")
	}
}

func TestExtraLabels(t *testing.T) {
	labelledResources := 0
	for _, r := range mustUp(t, "prod", map[string]string{"fakeart:labels": `{"team":"vision","cost-center":"42"}`}) {
		key := labelled[r.kind]
		if key == "" {
			continue
		}
		labelledResources++
		labels, _ := r.value(key).(map[string]any)
		if labels["team"] != "vision" || labels["cost-center"] != "42" || labels["app"] != "fakeart" {
			t.Errorf("%s %s has the labels %v", r.kind, r.name, labels)
		}
	}
	if labelledResources < 20 {
		t.Errorf("%d resources have labels", labelledResources)
	}
}

func TestWrongAccessAndLabels(t *testing.T) {
	many := []string{}
	for i := range mostLabels + 1 {
		many = append(many, fmt.Sprintf(`"k%d":"v"`, i))
	}
	refusals(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"member_without_kind":   {map[string]string{"fakeart:members": `["ann@example.org"]`}, []string{"fakeart:members", "ann@example.org", "user:"}},
		"member_everybody":      {map[string]string{"fakeart:members": `["allUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_any_account":    {map[string]string{"fakeart:members": `["allAuthenticatedUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_twice":          {map[string]string{"fakeart:members": `["user:a@b.org","user:a@b.org"]`}, []string{"fakeart:members", "twice"}},
		"members_no_list":       {map[string]string{"fakeart:members": `user:a@b.org`}, []string{"fakeart:members", "user:a@b.org", "a list of strings"}},
		"members_of_a_public":   {map[string]string{"fakeart:members": `["user:a@b.org"]`, "fakeart:public": "true"}, []string{"fakeart:members", "fakeart:public"}},
		"audience_no_url":       {map[string]string{"fakeart:audiences": `["fakeart"]`}, []string{"fakeart:audiences", `"fakeart"`, "https://"}},
		"audience_twice":        {map[string]string{"fakeart:audiences": `["https://a.org","https://a.org"]`}, []string{"fakeart:audiences", "twice"}},
		"label_of_the_program":  {map[string]string{"fakeart:labels": `{"app":"x"}`}, []string{"fakeart:labels.app", "another key"}},
		"label_of_google":       {map[string]string{"fakeart:labels": `{"goog-x":"x"}`}, []string{"fakeart:labels.goog-x", "Google"}},
		"label_key_upper_case":  {map[string]string{"fakeart:labels": `{"Team":"x"}`}, []string{"fakeart:labels.Team", "lower-case"}},
		"label_value_with_dots": {map[string]string{"fakeart:labels": `{"team":"a.b"}`}, []string{"fakeart:labels.team", "a.b"}},
		"label_value_empty":     {map[string]string{"fakeart:labels": `{"team":""}`}, []string{"fakeart:labels.team", "1 to 63"}},
		"label_value_number":    {map[string]string{"fakeart:labels": `{"cost":42}`}, []string{"fakeart:labels", "quotes"}},
		"labels_too_many":       {map[string]string{"fakeart:labels": "{" + strings.Join(many, ",") + "}"}, []string{"fakeart:labels", "59"}},
		"object_unknown_member": {map[string]string{"fakeart:training": `{"cores":2}`}, []string{"fakeart:training", "cores", "cpu (integer)", "args (a list of strings"}},
		"data_after_an_object":  {map[string]string{"fakeart:training": `{"cpu":2} {}`}, []string{"fakeart:training"}},
	})
}
