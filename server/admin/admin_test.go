package admin

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name   string
		tokens []string
		file   string
		err    string
		short  bool
	}{
		{"none", nil, "", "", false},
		{"long_token", []string{"0123456789abcdef"}, "", "", false},
		{"short_token", []string{"0123456789abcde"}, "", "", true},
		{"file", nil, file("tokens", "0123456789abcdef\n\nfedcba9876543210\n"), "", false},
		{"short_token_in_file", []string{"0123456789abcdef"}, file("short", "x"), "", true},
		{"empty_file", []string{"0123456789abcdef"}, file("empty", "\n"), "is empty", false},
		{"missing_file", nil, filepath.Join(dir, "missing"), "no such file", false},
		{"folder", nil, dir, "not a regular file", false},
		{"invalid_token_in_file", nil, file("invalid", "0123456789abcdé"), "visible ASCII", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			tokens, err := New(test.tokens, test.file)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tokens.HasShort() != test.short || tokens.Configured() != (test.name != "none") {
				t.Errorf("short %v, configured %v", tokens.HasShort(), tokens.Configured())
			}
		})
	}
}

// The file is read at each use, so tokens can be replaced while the server runs.
func TestTokens_FileReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	var tokens *Tokens
	for _, token := range []string{"first-token-in-file", "second-token-in-file"} {
		err := os.WriteFile(path, []byte(token), 0o600)
		if err == nil && tokens == nil {
			tokens, err = New([]string{"from-the-command-line"}, path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if all, err := tokens.current(); err != nil || !slices.Equal(all, []string{token, "from-the-command-line"}) {
			t.Errorf("%v, %v", all, err)
		}
	}
}

func TestCheckSyntax(t *testing.T) {
	for token, valid := range map[string]bool{"a-Z_0~!": true, "": true, "with space": false, "tab\t": false, "ä": false, "\x7f": false} {
		if err := CheckSyntax([]string{"good", token}); (err == nil) != valid {
			t.Errorf("%q: %v", token, err)
		}
	}
}
