package main

import (
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// A language describes where a file that isn't Go has its prose.
type language struct {
	comment string         // marker of a comment to the end of the line
	block   bool           // has comments in /* and */ as well
	quotes  string         // characters around messages, "" if strings aren't checked
	value   *regexp.Regexp // matches a line up to a text without quotes
}

var (
	script = language{comment: "//", block: true, quotes: "'\"`"}
	shell  = language{comment: "#", quotes: `"'`}
	yaml   = language{comment: "#", value: regexp.MustCompile(`^\s*(?:- )?"?(?:description|summary|title|fail_text|displayName|message)"?:\s+["']?`)}
)

// languageOf returns the language of a file by its name.
func languageOf(name string) (language, bool) {
	base := path.Base(name)
	switch path.Ext(base) {
	case ".js", ".ts", ".vue", ".mjs":
		return script, true
	case ".css", ".mod":
		return language{comment: "//", block: true}, true
	case ".yaml", ".yml":
		return yaml, true
	case ".sh", ".py", ".awk":
		return shell, true
	case ".toml":
		return language{comment: "#"}, true
	}
	switch base {
	case "Makefile", "run":
		return shell, true
	case ".gitignore", ".gitattributes", ".editorconfig", ".npmrc":
		return language{comment: "#"}, true
	}
	return language{}, false
}

// scan returns the comments and messages of a file, line by line: it knows no grammar.
func scan(l language, text string) []passage {
	var all []passage
	var comment []line // that comments on consecutive lines are of
	finish := func() {
		all, comment = append(all, paragraphs(comment)...), nil
	}
	message := func(text string, at pos) {
		if prose(text) {
			var p passage
			p.add(text, at)
			all = append(all, p)
		}
	}
	inside := false // a comment in /* and */
	for i, s := range strings.Split(text, "\n") {
		column := func(offset int) pos { return pos{i + 1, utf8.RuneCountInString(s[:offset]) + 1} }
		whole := !inside // whether the line has nothing but a comment
		for offset := 0; offset < len(s); {
			rest := s[offset:]
			before := byte(' ')
			if offset > 0 {
				before = s[offset-1]
			}
			if inside {
				body, _, closed := strings.Cut(rest, "*/")
				trimmed := strings.TrimLeft(body, " *")
				comment = append(comment, line{trimmed, column(offset + len(body) - len(trimmed))})
				if !closed {
					break
				}
				inside = false
				finish()
				offset += len(body) + 2
				continue
			}
			switch c := rest[0]; {
			case strings.HasPrefix(rest, l.comment) && strings.ContainsRune(" \t;{}(),", rune(before)):
				start := offset + len(l.comment)
				for start < len(s) && strings.ContainsRune("#/!", rune(s[start])) {
					start++
				}
				whole = strings.TrimSpace(s[:offset]) == ""
				if !whole || strings.HasPrefix(rest, "##") {
					finish()
				}
				comment = append(comment, line{s[start:], column(start)})
				if !whole {
					finish()
				}
				offset = len(s)
				continue
			case l.block && strings.HasPrefix(rest, "/*"):
				inside = true
				offset += 2
				continue
			case strings.IndexByte(l.quotes, c) >= 0 && (before < 'A' || before == '['):
				if body, _, ok := strings.Cut(rest[1:], rest[:1]); ok {
					message(body, column(offset+1))
					offset += len(body) + 2
					continue
				}
			}
			whole = whole && (rest[0] == ' ' || rest[0] == '\t')
			offset++
		}
		if l.value != nil {
			if m := l.value.FindString(s); m != "" {
				message(strings.TrimRight(s[len(m):], `"'`), column(len(m)))
			}
		}
		if !inside && (!whole || strings.TrimSpace(s) == "") {
			finish()
		}
	}
	finish()
	return all
}
