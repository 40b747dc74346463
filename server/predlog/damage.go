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

// code returns SQLite's primary result code, or 0 if err isn't an error of SQLite.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// isCorrupt reports whether the database file is damaged or isn't a database.
func isCorrupt(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_CORRUPT || c == sqlite3.SQLITE_NOTADB
}

// isFull reports whether the disk or the database is full.
func isFull(err error) bool {
	return code(err) == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC)
}

// isDisk reports whether the disk is full or fails. While opening a database, SQLite reports a full
// disk as various I/O errors.
func isDisk(err error) bool { return isFull(err) || code(err) == sqlite3.SQLITE_IOERR }

func isBusy(err error) bool { return code(err) == sqlite3.SQLITE_BUSY }

// moveAside renames the damaged database and its -wal and -shm files, and logs the new name.
func (s *SQLite) moveAside(cause error) error {
	path := s.options.Path
	aside := freeName(path + ".corrupt-" + time.Now().UTC().Format(secondLayout))
	// Rename the database last. If the program is killed in between, the next start finds it and
	// moves it again.
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the database is damaged (%w) and cannot be moved aside: %w", cause, err)
		}
	}
	s.options.Logger.Error("the prediction log database is damaged; moved it aside and starting a new one",
		"path", path, "moved_to", aside, "error", cause)
	return nil
}

// freeName returns name, or name with a numeric suffix if it is taken.
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

// moveWALAside moves a -wal file with an invalid header aside. SQLite would treat the file as empty
// and overwrite it. The database itself may be intact.
func (s *SQLite) moveWALAside() error {
	path := s.options.Path + "-wal"
	reason, err := checkWAL(path)
	if err != nil || reason == "" {
		return err
	}
	aside := freeName(path + ".corrupt-" + time.Now().UTC().Format(secondLayout))
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	s.options.Logger.Error("the -wal file of the prediction log database is damaged; moved it aside, the latest records may be missing",
		"path", path, "moved_to", aside, "error", reason)
	return nil
}

// checkWAL returns what is wrong with the header of a -wal file, or an empty reason if the header
// is valid or the file is missing or empty. See https://sqlite.org/fileformat2.html#walformat.
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
		return "invalid header", nil
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
		return "wrong header checksum", nil
	}
	return "", nil
}
