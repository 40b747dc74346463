package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"fakeart/internal/cli"
)

// DefaultName is the name of a model whose reference has none.
const DefaultName = "fakeart"

// Ref is a model to serve.
type Ref struct {
	// Name is the name by which requests select the model.
	Name string
	// URL is the source; see package source.
	URL string
	// Digest is the expected digest of the file, or empty.
	Digest string
}

var (
	// named matches NAME=URL. A URL without a name has a colon or a slash before its first equals sign.
	named = regexp.MustCompile(`^([^:/\\?=]*)=(.*)$`)
	// separator matches a comma before NAME=URL.
	separator = regexp.MustCompile(`,([A-Za-z0-9][A-Za-z0-9._-]*=)`)
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// split splits a list NAME=URL,NAME=URL, as in an environment variable. Other commas belong to the URL.
func split(text string) []string {
	if !named.MatchString(text) {
		return []string{text}
	}
	return strings.Split(separator.ReplaceAllString(text, "\n$1"), "\n")
}

// cut splits NAME=VALUE. Without a name, ok is false and value is the text.
func cut(text string) (name, value string, ok bool) {
	if match := named.FindStringSubmatch(text); match != nil {
		return match[1], match[2], true
	}
	return "", text, false
}

// ParseRefs parses the values of --model and --model-sha256: one URL and one digest, or any number of NAME=URL and
// NAME=DIGEST. A value can also be a list of those with commas between them. It doesn't check URLs and digests.
func ParseRefs(models, digests []string) (refs []Ref, err error) {
	var errs []error
	invalid := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	byName := map[string]int{}
	for _, value := range models {
		for _, text := range split(value) {
			name, url, ok := cut(text)
			if !ok {
				name = DefaultName
			}
			switch _, twice := byName[name]; {
			case text == "":
				continue
			case !validName.MatchString(name):
				invalid("--model=%s: invalid name %.80q\n"+cli.HintPrefix+"use up to 63 letters, digits, dots, underscores and hyphens, or write a file whose name contains = as ./%[1]s", text, name)
			case name == "stats": // GET /v2/models/stats
				invalid("--model=%s: the name %s is reserved\n"+cli.HintPrefix+"use another one", text, name)
			case url == "":
				invalid("--model=%s: the URL is missing\n"+cli.HintPrefix+"write %s=FILE or %[2]s=URL", text, name)
			case twice && !ok:
				invalid("--model=%s: several models need names\n"+cli.HintPrefix+"write each as NAME=URL, as in --model cats=cats.onnx --model dogs=dogs.onnx", text)
			case twice:
				invalid("--model=%s: two models have the name %s\n"+cli.HintPrefix+"use another name for one of them", text, name)
			}
			byName[name] = len(refs)
			refs = append(refs, Ref{Name: name, URL: url})
		}
	}
	for _, value := range digests {
		for _, text := range split(value) {
			if text == "" {
				continue
			}
			name, digest, ok := cut(text)
			if !ok && len(refs) > 1 {
				invalid("--model-sha256=%s: with several models, the digest needs a name\n"+cli.HintPrefix+"write %s=%[1]s", text, refs[0].Name)
				continue
			}
			if !ok && len(refs) == 1 {
				name = refs[0].Name
			}
			i, known := byName[name]
			switch {
			case !known && ok:
				invalid("--model-sha256=%s: no --model has the name %s", text, name)
			case !known: // without --model
				refs = append(refs, Ref{Name: DefaultName, Digest: digest})
			case refs[i].Digest != "":
				invalid("--model-sha256=%s: the model %s has two digests", text, name)
			default:
				refs[i].Digest = digest
			}
		}
	}
	return refs, errors.Join(errs...)
}

// quote returns text as a JSON string, as encoding/json writes it.
func quote(text string) []byte {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always encodes
	}
	return b
}
