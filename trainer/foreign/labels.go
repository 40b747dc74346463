package foreign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxSettings is the maximum size of a file with settings or labels.
const maxSettings = 16 << 20

// ReadLabels reads the names of classes, in the order of the model's outputs, from a text file with one name per line, or from a JSON file
// with a list of names or an object from index to name.
//
// A name extends over its whole line, so that it can contain commas, quotes and "#". Line numbers at the beginning of every line are removed,
// as in "0 tench". A byte order mark and Windows line ends are allowed.
func ReadLabels(path string) ([]string, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	if len(data) > maxSettings {
		return nil, fmt.Errorf("%s: %d bytes, too large for a list of names", path, len(data))
	}
	var names []string
	if strings.EqualFold(filepath.Ext(path), ".json") {
		names, err = parseJSONLabels(data)
	} else {
		names, err = parseLabels(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return names, nil
}

func parseLabels(data []byte) ([]string, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8 text\nhint: convert it, such as with iconv -f LATIN1 -t UTF-8, or -f UTF-16")
	}
	// Old Macintosh line ends are as rare as carriage returns in names.
	text := strings.TrimRight(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n\r \t")
	if text == "" {
		return nil, errors.New("no names")
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		if lines[i] = strings.TrimSpace(lines[i]); lines[i] == "" {
			return nil, fmt.Errorf("line %d is empty\nhint: write one name per line, in the order of the model's outputs", i+1)
		}
	}
	return unnumbered(lines), nil
}

// unnumbered removes the numbers of lines if all of them have one, from 0 or 1.
func unnumbered(lines []string) []string {
	for first := range 2 {
		names := make([]string, 0, len(lines))
		for i, line := range lines {
			rest, ok := strings.CutPrefix(line, strconv.Itoa(i+first))
			name := strings.TrimLeft(rest, " \t:,;")
			if !ok || name == rest || name == "" {
				break
			}
			names = append(names, name)
		}
		if len(names) == len(lines) && len(lines) > 1 {
			return names
		}
	}
	return lines
}

// parseJSONLabels parses a list of names, or an object from index to name, or from index to [ID, name] as Keras has it.
func parseJSONLabels(data []byte) ([]string, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var list []string
	if json.Unmarshal(data, &list) == nil {
		return list, nil
	}
	var pairs map[string][]string
	if json.Unmarshal(data, &pairs) == nil {
		byIndex := map[string]string{}
		for index, pair := range pairs {
			if len(pair) > 0 {
				byIndex[index] = pair[len(pair)-1]
			}
		}
		return inOrder(byIndex)
	}
	var byIndex map[string]string
	if json.Unmarshal(data, &byIndex) != nil {
		return nil, errors.New("not a JSON list of names, nor an object from index to name")
	}
	return inOrder(byIndex)
}

// inOrder returns names by their index, which is a number in decimal: "10" comes after "2".
func inOrder(byIndex map[string]string) ([]string, error) {
	names := make([]string, len(byIndex))
	set := make([]bool, len(byIndex))
	for key, name := range byIndex {
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(names) || set[i] {
			return nil, fmt.Errorf("%q isn't one of the indices 0 to %d", key, len(names)-1)
		}
		names[i], set[i] = name, true
	}
	return names, nil
}

// placeholders reports whether all names are those that transformers invents: LABEL_0, LABEL_1, ….
func placeholders(names []string) bool {
	return len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, "LABEL_") })
}
