package predlog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Synchronous is when SQLite flushes its data to the disk.
type Synchronous string

// Settings of Synchronous. Both survive a killed process.
const (
	// Normal doesn't wait for the disk at each transaction. After a power failure or a crash of the
	// operating system, the latest records may be missing. The database stays consistent.
	Normal Synchronous = "normal"
	// Full waits for the disk at each transaction. It survives a power failure.
	Full Synchronous = "full"
)

const (
	// busyTimeout is how long a write waits for another program's lock on the database.
	busyTimeout = 5 * time.Second
	// readers is the maximum number of concurrent pages and exports.
	readers = 4
	// cacheKiB is the size of the page cache per connection.
	cacheKiB = 4096
	// keptWAL is the size in bytes to which the -wal file is truncated after an export made it
	// grow.
	keptWAL = 64 << 20

	retentionInterval = 5 * time.Second
	retentionStep     = 200 // rows, about a millisecond

	// secondLayout is the time format in the names of files that were moved aside.
	secondLayout = "20060102T150405Z"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLiteOptions configures a SQLite store.
type SQLiteOptions struct {
	// Path is the database file. The file and its directory are created if missing.
	Path string
	// Synchronous defaults to Normal.
	Synchronous Synchronous
	// MaxAge and MaxRows limit what is kept: older records, and the oldest of excess records, are
	// deleted within seconds. 0 means no limit.
	MaxAge  time.Duration
	MaxRows int64
	// Count counts written records.
	Count Counter
	// Logger logs events for operators, such as a damaged database.
	Logger *slog.Logger
}

// SQLite is a store in a SQLite database file. It is safe for concurrent use. Reading doesn't block
// writing.
//
// A damaged database is renamed, together with its -wal and -shm files, to a name that ends in
// .corrupt-TIME, and replaced by a new one. Damage is detected while opening, writing and reading,
// and by a check in the background. Nothing is deleted. A database file that disappears is replaced
// as well. If another program changes the schema, writing fails with ErrSchema until that is undone,
// while reading works as far as possible.
type SQLite struct {
	options SQLiteOptions
	lock    *flock.Flock
	ctx     context.Context // canceled by Close
	cancel  context.CancelFunc
	group   sync.WaitGroup // background work

	labelsMu sync.Mutex
	labels   map[string][]string // by digest, of the models of this process

	mu sync.Mutex // held while the writing connection or db is used
	// reading is read-locked while reading from db, and locked while db is replaced.
	reading sync.RWMutex
	db      *database // nil if not open; changes only with both locks held; it may be read-only
}

// OpenSQLite opens or creates the database. No other process may have it open as a log. OpenSQLite
// does only cheap checks; a thorough one runs in the background.
//
// It returns an error if the path is a directory or not writable, or if the database is in use, was
// written by a newer version of this program, belongs to another program, or was changed by one
// (ErrSchema). A full disk is not an error: the first write fails, and the database is opened once
// there is space.
func OpenSQLite(ctx context.Context, options SQLiteOptions) (*SQLite, error) {
	fail := func(err error) (*SQLite, error) {
		return nil, fmt.Errorf("open prediction log %s: %w", options.Path, err)
	}
	switch options.Synchronous {
	case "":
		options.Synchronous = Normal
	case Normal, Full:
	default:
		return fail(fmt.Errorf("invalid synchronous setting %q: must be %s or %s", options.Synchronous, Normal, Full))
	}
	if options.MaxAge < 0 || options.MaxRows < 0 {
		return fail(fmt.Errorf("retention: %s and %d rows: must not be negative", options.MaxAge, options.MaxRows))
	}
	if options.Path == "" {
		return fail(errors.New("no file name given"))
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	path, err := filepath.Abs(options.Path) // independent of later changes of the working directory
	if err != nil {
		return fail(err)
	}
	options.Path = path
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fail(err)
	}
	if err := checkFile(path); err != nil {
		return fail(err)
	}
	s := &SQLite{options: options, labels: map[string][]string{}, lock: flock.New(path + ".lock")}
	locked, err := s.lock.TryLock()
	if err != nil {
		return fail(fmt.Errorf("lock: %w", err))
	}
	if !locked {
		return fail(fmt.Errorf("in use by another process, which holds %s.lock; stop that process or use another file", path))
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	err = s.open(ctx)
	s.mu.Unlock()
	if err != nil && !isDisk(err) {
		_ = s.Close(ctx)
		return fail(err)
	}
	if options.MaxAge > 0 || options.MaxRows > 0 {
		s.group.Go(s.keepRetention)
	}
	return s, nil
}

// database is an open database file.
type database struct {
	ctx    context.Context // canceled when the database is closed
	cancel context.CancelFunc
	info   fs.FileInfo // of the opened file
	wal    fs.FileInfo // of its -wal file, or nil
	reader *sql.DB

	// These are nil if the database is read-only.
	writer *sql.DB
	insert *inserter
	schema int64 // the version of the schema that was checked; see inserter.schemaVersion
}

// checkFile returns an error if the path exists but isn't a file.
func checkFile(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return errors.New("not a regular file; give the name of a file")
	}
	return nil
}

// open opens the database. A damaged one is moved aside first. After an error, the database may be
// open read-only. s.mu must be held.
func (s *SQLite) open(ctx context.Context) error {
	if err := s.moveWALAside(); err != nil {
		return err
	}
	db, err := s.openDatabase(ctx)
	if isCorrupt(err) {
		if err = s.closeAside(db, err); err == nil {
			db, err = s.openDatabase(ctx)
		}
	}
	if db.reader == nil {
		db.close()
		return err
	}
	s.reading.Lock()
	s.db = db
	s.reading.Unlock()
	s.group.Go(func() { s.check(db) })
	return err
}

// openDatabase opens or creates the database. If it cannot be written, but may be readable, the
// result is read-only. The caller must close the result, even after an error.
func (s *SQLite) openDatabase(ctx context.Context) (db *database, err error) {
	db = new(database)
	db.ctx, db.cancel = context.WithCancel(s.ctx)
	// The directory may have been deleted meanwhile.
	if err := errors.Join(checkFile(s.options.Path), os.MkdirAll(filepath.Dir(s.options.Path), 0o750)); err != nil {
		return db, err
	}
	failure := s.openWriter(ctx, db)
	if failure != nil && (isCorrupt(failure) || code(failure) == 0 && !errors.Is(failure, ErrSchema)) {
		return db, failure
	}
	if db.info, err = os.Stat(s.options.Path); err != nil {
		return db, errors.Join(failure, err)
	}
	db.wal, _ = os.Stat(s.options.Path + "-wal")
	if db.reader, err = sql.Open("sqlite", s.address("mode", "ro")); err != nil {
		return db, err
	}
	db.reader.SetMaxOpenConns(readers)
	db.reader.SetMaxIdleConns(1)
	return db, failure
}

// openWriter makes the database writable.
func (s *SQLite) openWriter(ctx context.Context, db *database) (err error) {
	defer func() {
		if err != nil {
			db.closeWriter()
		}
	}()
	if db.writer, err = sql.Open("sqlite", s.address("_synchronous", string(s.options.Synchronous), "_pragma", fmt.Sprintf("journal_size_limit(%d)", keptWAL))); err != nil {
		return err
	}
	db.writer.SetMaxOpenConns(1)
	if err := s.migrate(ctx, db.writer); err != nil {
		return err
	}
	if db.insert, err = newInserter(ctx, db.writer); err != nil {
		return err
	}
	db.wal, _ = os.Stat(s.options.Path + "-wal") // a new one if there were no readers
	if db.schema, err = db.insert.schemaVersion(); err != nil {
		return err
	}
	return s.insertLabels(ctx, db) // into a new database
}

// checkSchema returns ErrSchema if the schema has changed in a way that matters.
func (db *database) checkSchema(ctx context.Context) error {
	version, err := db.insert.schemaVersion()
	if err != nil || version == db.schema {
		return err
	}
	if err := checkSchema(ctx, db.insert.conn, goose.MaxVersion); err != nil {
		return err
	}
	db.schema = version
	return nil
}

// address returns the driver's data source name for the file, with additional query parameters.
func (s *SQLite) address(pairs ...string) string {
	path := filepath.ToSlash(s.options.Path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/… on Windows
	}
	query := url.Values{
		"_busy_timeout": {fmt.Sprint(busyTimeout.Milliseconds())},
		"_txlock":       {"immediate"},
		"_pragma":       {fmt.Sprintf("cache_size(-%d)", cacheKiB)},
		"_error_rc":     {"1"},
	}
	for i := 0; i < len(pairs); i += 2 {
		query.Add(pairs[i], pairs[i+1])
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// migrate upgrades the schema to the version of this program.
func (s *SQLite) migrate(ctx context.Context, db *sql.DB) error {
	var tables, ours int
	if err := db.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE name = 'goose_db_version') FROM sqlite_schema").Scan(&tables, &ours); err != nil {
		return err
	}
	if tables > 0 && ours == 0 {
		return errors.New("the database belongs to another program; use another file")
	}
	if ours > 0 {
		// Detect a damaged page here, because goose would treat it as a missing table.
		var version sql.NullInt64
		if err := db.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version").Scan(&version); err != nil {
			return err
		}
	}
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("WAL mode is not available (journal mode is %q); use a file on a local disk", mode)
	}
	provider, err := newMigrations(db)
	if err != nil {
		return err
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("the database was written by a newer version of this program (schema %d, this version supports %d); use that version or another file", current, target)
	}
	if current > 0 {
		if err := checkSchema(ctx, db, current); err != nil {
			return err
		}
	}
	_, err = provider.Up(ctx)
	return err
}

// close closes the database's connections. All readers must have finished.
func (db *database) close() {
	db.cancel()
	if db.reader != nil {
		_ = db.reader.Close()
	}
	db.closeWriter()
}

// closeWriter makes the database read-only.
func (db *database) closeWriter() {
	if db.insert != nil {
		db.insert.close()
	}
	if db.writer != nil {
		_ = db.writer.Close() // checkpoints the -wal file if there are no readers
	}
	db.writer, db.insert, db.schema = nil, nil, 0
}

// vanished reports whether the file was deleted or replaced. SQLite would keep writing to the old
// file, which nobody can open.
func (db *database) vanished(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !os.SameFile(info, db.info)
}

// drop closes the database with f. s.mu must be held. It interrupts readers first: a connection
// that is closed later would delete the -wal file of the next database.
func (s *SQLite) drop(f func(db *database)) {
	s.db.cancel()
	s.reading.Lock()
	defer s.reading.Unlock()
	f(s.db)
	s.db = nil
}

// retire closes a database whose file was deleted or replaced. SQLite would apply the -wal file that
// is left to the next file of that name.
func (s *SQLite) retire(db *database) error {
	if db.insert != nil {
		_, _ = db.insert.conn.ExecContext(s.ctx, "PRAGMA wal_checkpoint(TRUNCATE)") // usually empties it
	}
	db.close()
	path := s.options.Path + "-wal"
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 || db.wal == nil || !os.SameFile(info, db.wal) {
		return nil
	}
	aside := freeName(path + ".old-" + time.Now().UTC().Format(secondLayout))
	s.options.Logger.Warn("the -wal file belongs to the database that has vanished; moved it aside", "path", path, "moved_to", aside)
	return os.Rename(path, aside)
}

// closeAside moves the damaged database aside and closes it.
func (s *SQLite) closeAside(db *database, cause error) error {
	// Rename the files before closing them. Closing writes to the database and deletes the -wal
	// file by name, so it must no longer find that name.
	err := s.moveAside(cause)
	db.close()
	if err != nil {
		// Some systems cannot rename open files.
		err = s.moveAside(cause)
	}
	return err
}

// Write stores the records in one transaction.
func (s *SQLite) Write(ctx context.Context, records []Record) error {
	err := s.change(ctx, func(db *database) error {
		if len(records) == 0 {
			return nil
		}
		return db.insert.write(records)
	})
	if err == nil {
		s.options.Count.count(Written, len(records))
	}
	return err
}

// change calls f to write to the database. It opens the database, or creates a new one, if
// necessary. If the database is damaged, it calls f again with a new one. If another program has
// changed the schema, the database becomes read-only.
func (s *SQLite) change(ctx context.Context, f func(*database) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	if s.db != nil && s.db.vanished(s.options.Path) {
		s.options.Logger.Error("the prediction log database has vanished; creating a new one", "path", s.options.Path)
		var err error
		s.drop(func(db *database) { err = s.retire(db) })
		if err != nil {
			return err
		}
	}
	err := s.tryChange(ctx, f)
	if isCorrupt(err) {
		if err = s.replace(err); err == nil {
			err = s.tryChange(ctx, f)
		}
	}
	switch {
	case err == nil:
		return nil
	case s.db == nil || s.db.insert == nil || isFull(err) || isBusy(err):
	case errors.Is(err, ErrSchema):
		s.db.closeWriter()
	default:
		s.drop((*database).close) // the next write opens new connections
	}
	return fmt.Errorf("write prediction log %s: %w", s.options.Path, err)
}

func (s *SQLite) tryChange(ctx context.Context, f func(*database) error) error {
	var err error
	switch {
	case s.db == nil:
		err = s.open(ctx)
	case s.db.insert == nil:
		err = s.openWriter(ctx, s.db)
	default:
		err = s.db.checkSchema(ctx)
	}
	if err != nil {
		return err
	}
	return f(s.db)
}

// replace moves the damaged database aside and creates a new one. s.mu must be held.
func (s *SQLite) replace(cause error) error {
	if s.db == nil { // open has already moved the database aside
		return cause
	}
	var err error
	s.drop(func(db *database) { err = s.closeAside(db, cause) })
	if err != nil {
		return err
	}
	return s.open(s.ctx)
}

// damaged replaces db if it is still in use.
func (s *SQLite) damaged(db *database, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != db || s.ctx.Err() != nil {
		return
	}
	if err := s.replace(cause); err != nil {
		s.options.Logger.Error("cannot create a new database in place of the damaged one; retrying with the next record", "path", s.options.Path, "error", err)
	}
}

// read calls f to read from the database. f is interrupted if the database is replaced or the store
// is closed.
func (s *SQLite) read(ctx context.Context, f func(context.Context, *sql.DB) error) error {
	s.reading.RLock()
	db := s.db
	if db == nil {
		s.reading.RUnlock()
		return fmt.Errorf("read prediction log %s: the database is not open", s.options.Path)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(db.ctx, func() { cancel(errors.New("the database was closed")) })
	err := f(ctx, db.reader)
	if code(err) == sqlite3.SQLITE_ERROR { // such as an unknown column
		if e := checkSchema(ctx, db.reader, goose.MaxVersion); errors.Is(e, ErrSchema) {
			err = e
		}
	}
	stop()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	s.reading.RUnlock()
	if err != nil {
		if isCorrupt(err) {
			s.damaged(db, err)
		}
		return fmt.Errorf("read prediction log %s: %w", s.options.Path, err)
	}
	return nil
}

// check reads the whole database in the background, and replaces it if it is damaged.
func (s *SQLite) check(db *database) {
	var found string
	err := func() error {
		s.reading.RLock()
		defer s.reading.RUnlock()
		if db.ctx.Err() != nil {
			return nil
		}
		// Stop at the first problem.
		return db.reader.QueryRowContext(db.ctx, "PRAGMA quick_check(1)").Scan(&found)
	}()
	switch {
	case db.ctx.Err() != nil:
	case isCorrupt(err):
		s.damaged(db, err)
	case err != nil:
		s.options.Logger.Warn("cannot check the prediction log database", "path", s.options.Path, "error", err)
	case found != "ok" && found != "":
		s.damaged(db, errors.New(found))
	}
}

// Close closes the database.
func (s *SQLite) Close(context.Context) error {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return nil
	}
	s.cancel()
	if s.db != nil {
		s.drop((*database).close)
	}
	s.mu.Unlock()
	s.group.Wait()
	// Keep the lock file: if it were deleted while another process waits for it, both could get a lock.
	return s.lock.Unlock()
}

// keepRetention deletes old and excess records periodically until the store is closed.
func (s *SQLite) keepRetention() {
	for {
		if err := s.retain(time.Now()); err != nil && s.ctx.Err() == nil {
			s.options.Logger.Warn("cannot delete old records of the prediction log", "path", s.options.Path, "error", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(retentionInterval):
		}
	}
}

// retain deletes records that are too old at the given time, or exceed the maximum number, in small
// steps so that writes don't have to wait. SQLite reuses the freed pages.
func (s *SQLite) retain(now time.Time) error {
	oldest := "" // sorts before every time
	if s.options.MaxAge > 0 {
		oldest = now.Add(-s.options.MaxAge).UTC().Format(timeFormat)
	}
	for s.ctx.Err() == nil {
		n, db, err := s.retainStep(oldest)
		if isCorrupt(err) {
			s.damaged(db, err)
			return nil
		}
		if err != nil || n == 0 {
			return err
		}
	}
	return nil
}

func (s *SQLite) retainStep(oldest string) (deleted int64, db *database, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	db = s.db
	if db == nil || db.insert == nil {
		return 0, nil, nil
	}
	// Only the oldest records are deleted, so seq has no gaps and counts rows.
	excess := int64(0)
	if s.options.MaxRows > 0 {
		var last sql.NullInt64
		if err := db.insert.conn.QueryRowContext(db.ctx, "SELECT max(seq) FROM predictions").Scan(&last); err != nil {
			return 0, db, err
		}
		excess = last.Int64 - s.options.MaxRows
	}
	result, err := db.insert.conn.ExecContext(db.ctx, `DELETE FROM predictions WHERE seq IN (
		SELECT seq FROM (SELECT seq, time FROM predictions ORDER BY seq LIMIT ?) WHERE seq <= ? OR time < ?)`, retentionStep, excess, oldest)
	if err != nil {
		return 0, db, err
	}
	deleted, err = result.RowsAffected()
	return deleted, db, err
}
