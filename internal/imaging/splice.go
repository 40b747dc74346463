package imaging

import "io"

// splicer reads several byte slices one after the other.
type splicer struct{ parts [][]byte }

func splice(parts ...[]byte) *splicer { return &splicer{parts} }

// Read implements io.Reader.
func (s *splicer) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && len(s.parts) > 0 {
		m := copy(p[n:], s.parts[0])
		n += m
		if s.parts[0] = s.parts[0][m:]; len(s.parts[0]) == 0 {
			s.parts = s.parts[1:]
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}
