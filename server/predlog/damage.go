package predlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// code is SQLite's primary result code, or 0 when the error is not SQLite's.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// isCorrupt tells whether the error means that the file is damaged, or is no database at all.
func isCorrupt(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_CORRUPT || c == sqlite3.SQLITE_NOTADB
}

// isFull tells whether there is no room for what was to be written.
func isFull(err error) bool {
	return code(err) == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC)
}

// isDisk tells whether it is the disk's fault: it is full or fails. SQLite reports
// a full disk as any of several I/O errors while it opens a database.
func isDisk(err error) bool { return isFull(err) || code(err) == sqlite3.SQLITE_IOERR }

func isBusy(err error) bool { return code(err) == sqlite3.SQLITE_BUSY }

// moveAside renames the database with its -wal and -shm files, and says where it is.
func (s *SQLite) moveAside(cause error) error {
	path := s.options.Path
	aside := freeName(path + ".corrupt-" + time.Now().UTC().Format(secondLayout))
	// The database comes last: as long as it is there, it is found again, and moved,
	// if the program is killed in between.
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("damaged (%w), and cannot be moved aside: %w", cause, err)
		}
	}
	s.options.Logger.Error("the prediction log's database is damaged; it was moved aside, and a new one is begun",
		"path", path, "moved_to", aside, "error", cause)
	return nil
}

// freeName returns a name that is not taken yet.
func freeName(name string) string {
	free := name
	for i := 2; ; i++ {
		taken := false
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if _, err := os.Lstat(free + suffix); err == nil {
				taken = true
			}
		}
		if !taken {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, i)
	}
}

// setWALAside moves a -wal file aside whose header is garbage. SQLite would take
// it for an empty one and overwrite it. The database itself may be whole.
func (s *SQLite) setWALAside() error {
	path := s.options.Path + "-wal"
	reason, err := checkWAL(path)
	if err != nil || reason == "" {
		return err
	}
	aside := freeName(path + ".corrupt-" + time.Now().UTC().Format(secondLayout))
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	s.options.Logger.Error("the prediction log's -wal file is damaged; it was moved aside, the last records may be missing",
		"path", path, "moved_to", aside, "error", reason)
	return nil
}

// checkWAL says what is wrong with the header of a -wal file; nothing when there
// is no file, or an empty one. The format is described at https://sqlite.org/fileformat2.html#walformat.
func checkWAL(path string) (reason string, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	var header [32]byte
	if n, err := io.ReadFull(file, header[:]); n == 0 && errors.Is(err, io.EOF) {
		return "", nil
	} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	const magic, version = 0x377f0682, 3007000
	found := binary.BigEndian.Uint32(header[:])
	if found&^1 != magic || binary.BigEndian.Uint32(header[4:]) != version {
		return "its header is not that of a -wal file", nil
	}
	var order binary.ByteOrder = binary.LittleEndian
	if found&1 == 1 {
		order = binary.BigEndian
	}
	var a, b uint32
	for i := 0; i < 24; i += 8 {
		a += order.Uint32(header[i:]) + b
		b += order.Uint32(header[i+4:]) + a
	}
	if a != binary.BigEndian.Uint32(header[24:]) || b != binary.BigEndian.Uint32(header[28:]) {
		return "its header's checksum is wrong", nil
	}
	return "", nil
}
