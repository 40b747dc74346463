package oip

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is the maximum nesting depth of a skipped value.
const maxDepth = 64

// reader parses JSON (RFC 8259) in one pass without building values: a request consists almost
// entirely of numbers, which are written directly to their destination. It is strict: strings must
// be UTF-8, and numbers must have JSON's syntax.
//
// Libraries are slower or less strict. For an image of 3,072 numbers, encoding/json took 850 µs and
// 22 allocations, and 460 µs only to find the numbers; jsontext, jx and fastjson took 450 to 540
// µs. jx accepts invalid UTF-8, and fastjson also nan, 01 and 1e400. This reader takes 110 µs and
// does not allocate.
type reader struct {
	data []byte
	at   int // offset of the next byte
}

// syntaxError returns the error for invalid JSON at the current offset.
func (r *reader) syntaxError(want string) error {
	if r.at >= len(r.data) {
		return invalid("the JSON is truncated after %d bytes: expected %s", len(r.data), want)
	}
	rest := r.data[r.at:]
	return invalid("invalid JSON at byte %d: expected %s, found %q", r.at, want, rest[:min(len(rest), 8)])
}

// peek skips white space and returns the next byte, or 0 at the end.
func (r *reader) peek() byte {
	for r.at < len(r.data) {
		switch c := r.data[r.at]; c {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return c
		}
	}
	return 0
}

// kind returns the kind of the next value, with its article, or an empty string if the next byte
// cannot begin a value.
func (r *reader) kind() string {
	switch c := r.peek(); {
	case c == '"':
		return "a string"
	case c == '[':
		return "an array"
	case c == '{':
		return "an object"
	case c == 't', c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case '0' <= c && c <= '9', c == '-' && r.at+1 < len(r.data) && '0' <= r.data[r.at+1] && r.data[r.at+1] <= '9':
		return "a number"
	}
	return ""
}

// wrongKind returns the error for a value called name that isn't of the expected kind.
func (r *reader) wrongKind(name, want string) error {
	if kind := r.kind(); kind != "" {
		return invalid("%s is %s: expected %s", name, kind, want)
	}
	return r.syntaxError(want)
}

// null reads the next value if it is null, and reports whether it was.
func (r *reader) null() (bool, error) {
	if r.peek() != 'n' {
		return false, nil
	}
	return true, r.literal("null")
}

func (r *reader) literal(text string) error {
	if !bytes.HasPrefix(r.data[r.at:], []byte(text)) {
		return r.syntaxError("a value")
	}
	r.at += len(text)
	return nil
}

// boolean reads true or false.
func (r *reader) boolean(name string) (bool, error) {
	switch r.peek() {
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	}
	return false, r.wrongKind(name, "a boolean")
}

// object reads an object. It calls member for each member with its key, which is valid until the
// next read. member must read the value.
func (r *reader) object(name string, member func(key []byte) error) error {
	if r.peek() != '{' {
		return r.wrongKind(name, "an object")
	}
	r.at++
	if r.peek() == '}' {
		r.at++
		return nil
	}
	for {
		key, err := r.key()
		if err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.at++
		case '}':
			r.at++
			return nil
		default:
			return r.syntaxError("a comma or }")
		}
	}
}

// key reads a member name and the colon after it.
func (r *reader) key() ([]byte, error) {
	if r.peek() != '"' {
		return nil, r.syntaxError("a member name")
	}
	key, err := r.text()
	if err != nil {
		return nil, err
	}
	if r.peek() != ':' {
		return nil, r.syntaxError("a colon")
	}
	r.at++
	return key, nil
}

// array reads an array. It calls element for each element, which must read the value.
func (r *reader) array(name string, element func(i int) error) error {
	if r.peek() != '[' {
		return r.wrongKind(name, "an array")
	}
	r.at++
	if r.peek() == ']' {
		r.at++
		return nil
	}
	for i := 0; ; i++ {
		if err := element(i); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.at++
		case ']':
			r.at++
			return nil
		default:
			return r.syntaxError("a comma or ]")
		}
	}
}

// string reads a string. The result may alias the input and must not be modified.
func (r *reader) string(name string) ([]byte, error) {
	if r.peek() != '"' {
		return nil, r.wrongKind(name, "a string")
	}
	return r.text()
}

// text reads the string whose opening quote is the next byte.
func (r *reader) text() ([]byte, error) {
	start := r.at + 1
	for i := start; i < len(r.data); i++ {
		switch c := r.data[i]; {
		case c == '"':
			text := r.data[start:i]
			if !utf8.Valid(text) {
				return nil, invalid("invalid JSON: the string at byte %d is not UTF-8", r.at)
			}
			r.at = i + 1
			return text, nil
		case c == '\\':
			return r.escapedText(start, i)
		case c < ' ':
			r.at = i
			return nil, r.syntaxError(`control characters in strings to be escaped`)
		}
	}
	r.at = len(r.data)
	return nil, r.syntaxError("a closing quote")
}

// escapedText continues text for a string that begins at start and has its first escape at i.
func (r *reader) escapedText(start, i int) ([]byte, error) {
	text := bytes.Clone(r.data[start:i])
	for i < len(r.data) {
		switch c := r.data[i]; {
		case c == '"':
			if !utf8.Valid(text) {
				return nil, invalid("invalid JSON: the string at byte %d is not UTF-8", start-1)
			}
			r.at = i + 1
			return text, nil
		case c < ' ':
			r.at = i
			return nil, r.syntaxError(`control characters in strings to be escaped`)
		case c != '\\':
			text = append(text, c)
			i++
		default:
			var n int
			if text, n = appendEscape(text, r.data[i:]); n == 0 {
				r.at = i
				return nil, r.syntaxError("a valid escape sequence")
			}
			i += n
		}
	}
	r.at = len(r.data)
	return nil, r.syntaxError("a closing quote")
}

// appendEscape appends the decoded escape sequence at the beginning of data. It returns the length
// of the sequence, or 0 if it is invalid. Half a surrogate pair is invalid, because it could not be
// returned to the client unchanged.
func appendEscape(text, data []byte) ([]byte, int) {
	if len(data) < 2 {
		return text, 0
	}
	const short = "\"\\/bfnrt"
	const meaning = "\"\\/\b\f\n\r\t"
	for i := range len(short) {
		if data[1] == short[i] {
			return append(text, meaning[i]), 2
		}
	}
	char := codeUnit(data)
	if utf16.IsSurrogate(char) {
		char = utf16.DecodeRune(char, codeUnit(data[min(len(data), 6):]))
		if char == utf8.RuneError {
			return text, 0
		}
		return utf8.AppendRune(text, char), 12
	}
	if char < 0 {
		return text, 0
	}
	return utf8.AppendRune(text, char), 6
}

// codeUnit decodes the escape \uXXXX at the beginning of data. It returns -1 if data begins with something else.
func codeUnit(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	var char rune
	for _, c := range data[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		char = char<<4 | rune(c)
	}
	return char
}

// number reads a number and returns its text.
func (r *reader) number() ([]byte, error) {
	data, i := r.data, r.at
	if i < len(data) && data[i] == '-' {
		i++
	}
	whole := digits(data, i)
	if whole == i {
		return nil, r.syntaxError("a number")
	}
	if data[i] == '0' {
		whole = i + 1 // no digit follows a leading zero
	}
	i = whole
	if i < len(data) && data[i] == '.' {
		end := digits(data, i+1)
		if end == i+1 {
			r.at = end
			return nil, r.syntaxError("a digit after the decimal point")
		}
		i = end
	}
	if i < len(data) && data[i]|0x20 == 'e' {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		end := digits(data, i)
		if end == i {
			r.at = end
			return nil, r.syntaxError("a digit in the exponent")
		}
		i = end
	}
	text := data[r.at:i]
	r.at = i
	return text, nil
}

// digits returns the end of the digits that begin at i.
func digits(data []byte, i int) int {
	for i < len(data) && data[i]-'0' <= 9 {
		i++
	}
	return i
}

// errRange is returned for numbers that exceed the range of their type.
var errRange = errors.New("out of range")

// float reads a number and rounds it to the nearest float32.
func (r *reader) float() (float32, error) {
	text, err := r.number()
	if err != nil {
		return 0, err
	}
	if f, ok := quickFloat(text); ok {
		return f, nil
	}
	f, err := strconv.ParseFloat(string(text), 32)
	if err != nil {
		r.at -= len(text)
		return 0, errRange
	}
	return float32(f), nil
}

// quickFloat converts numbers of up to 19 digits without an exponent, twice as fast as
// strconv.ParseFloat and with the same result. It returns false for other numbers, and where
// rounding is too close to call.
//
// Both conversions to float64, of the digits to m and of m divided by the power of ten, round by at
// most half a unit in the last place, so f is off by less than 2 units. f rounds to the same
// float32 as the exact number, unless it is that close to the midpoint between two of them.
func quickFloat(text []byte) (float32, bool) {
	negative := text[0] == '-'
	if negative {
		text = text[1:]
	}
	if len(text) > 20 {
		return 0, false
	}
	var m uint64
	decimals := 0
	for i, c := range text {
		switch {
		case '0' <= c && c <= '9':
			m = m*10 + uint64(c-'0')
		case c == '.':
			decimals = len(text) - i - 1
		default:
			return 0, false
		}
	}
	if decimals == 0 && len(text) > 19 {
		return 0, false
	}
	f := float64(m) / powers[decimals]
	const (
		smallest = 0x1p-126 // the smallest normal float32
		dropped  = 1<<29 - 1
		middle   = 1 << 28
		margin   = 4
	)
	if low := math.Float64bits(f) & dropped; low-(middle-margin) <= 2*margin || f < smallest && m != 0 {
		return 0, false
	}
	if negative {
		f = -f
	}
	return float32(f), true
}

// powers are powers of ten, all of which float64 represents exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
}

// integer reads a whole number without exponent.
func (r *reader) integer(name string) (int64, error) {
	if kind := r.kind(); kind != "a number" {
		return 0, r.wrongKind(name, "an integer")
	}
	text, err := r.number()
	if err != nil {
		return 0, err
	}
	// 32.0 is an integer to JSON Schema, and to languages that know only one kind of number.
	whole := text
	if before, fraction, ok := bytes.Cut(text, []byte(".")); ok && len(bytes.Trim(fraction, "0")) == 0 {
		whole = before
	}
	n, err := strconv.ParseInt(string(whole), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, invalid("%s is %.40s: out of range", name, text)
	}
	if err != nil {
		return 0, invalid("%s is %.40s: expected an integer", name, text)
	}
	return n, nil
}

// skip reads and discards a value of any kind. It does not recurse.
func (r *reader) skip() error {
	var objects uint64 // one bit per open bracket, the innermost lowest: 1 for an object, 0 for an array
	for depth := 0; ; {
		var err error
		switch c := r.peek(); c {
		case '{', '[':
			if depth == maxDepth {
				return invalid("the JSON is nested deeper than %d levels at byte %d", maxDepth, r.at)
			}
			r.at++
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			if r.peek() == c+2 { // the closing bracket: ASCII has it two after the opening one
				break
			}
			if c == '{' {
				if _, err := r.key(); err != nil {
					return err
				}
			}
			continue
		case '"':
			_, err = r.text()
		case 't':
			err = r.literal("true")
		case 'f':
			err = r.literal("false")
		case 'n':
			err = r.literal("null")
		default:
			if r.kind() == "" {
				return r.syntaxError("a value")
			}
			_, err = r.number()
		}
		if err != nil {
			return err
		}
		// The value is complete, and maybe the enclosing ones as well.
		for {
			if depth == 0 {
				return nil
			}
			object := objects&1 == 1
			c := r.peek()
			if c == ',' {
				r.at++
				if object {
					if _, err := r.key(); err != nil {
						return err
					}
				}
				break
			}
			if object && c != '}' {
				return r.syntaxError("a comma or }")
			}
			if !object && c != ']' {
				return r.syntaxError("a comma or ]")
			}
			r.at++
			depth--
			objects >>= 1
		}
	}
}
