package main

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

var (
	// markup matches what isn't text: comments, code, tags and Go's template actions.
	markup = regexp.MustCompile(`(?s)<!--.*?-->|<(?:script|style|svg)\b.*?</(?:script|style|svg)>|<(/?)([a-zA-Z][\w-]*)(?:[^>"']|"[^"]*"|'[^']*')*>|<![^>]*>|\{\{.*?\}\}`)
	// inline are the elements that are within a sentence.
	inline    = regexp.MustCompile(`^(?:a|abbr|b|br|em|i|kbd|mark|small|span|strong|sub|sup|time|code|var)$`)
	control   = regexp.MustCompile(`^\{\{-?\s*(?:/\*|(?:if|else|end|range|with|define|block|template)\b)`)
	attribute = regexp.MustCompile(`\s(?:alt|title|placeholder|aria-label|content)=(?:"([^"]*)"|'([^']*)')`)
)

// extractHTML returns the texts, comments and readable attributes of an HTML page or template.
func extractHTML(text string) []passage {
	var all []passage
	var p passage
	finish := func() {
		if strings.TrimSpace(string(p.text)) != "" {
			all = append(all, p)
		}
		p = passage{}
	}
	at, offset := pos{1, 1}, 0
	// add adds the text up to an offset to the passage, or skips it.
	add := func(end int, skip bool) {
		for offset < end {
			r, size := utf8.DecodeRuneInString(text[offset:])
			offset += size
			space := r == '\n' || r == ' ' || r == '\t'
			switch n := len(p.text); {
			case skip, space && (n == 0 || p.text[n-1] == ' '):
			case space:
				p.add(" ", at)
			default:
				p.add(string(r), at)
			}
			if at.column++; r == '\n' {
				at = pos{at.line + 1, 1}
			}
		}
	}
	for _, m := range markup.FindAllStringSubmatchIndex(text, -1) {
		add(m[0], false)
		tag := text[m[0]:m[1]]
		name := ""
		if m[4] >= 0 {
			name = text[m[4]:m[5]]
		}
		switch {
		case control.MatchString(tag):
		case strings.HasPrefix(tag, "{{"):
			p.add("x", at) // a value
		case name == "code":
			p.add("`", at) // as in Markdown
		case !inline.MatchString(name):
			finish()
		}
		switch {
		case strings.HasPrefix(tag, "<!--"):
			add(m[0]+len("<!--"), true)
			add(m[1]-len("-->"), false)
			finish()
		case name != "":
			sentence := p
			for _, a := range attribute.FindAllStringSubmatchIndex(tag, -1) {
				start, end := max(a[2], a[4]), max(a[3], a[5])
				p = passage{}
				add(m[0]+start, true)
				add(m[0]+end, false)
				if prose(string(p.text)) {
					all = append(all, p)
				}
			}
			p = sentence
		}
		add(m[1], true)
	}
	add(len(text), false)
	finish()
	return all
}
