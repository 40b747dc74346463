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
)

// Synchronous says when SQLite has the system write what it holds to the disk.
type Synchronous string

// The two settings. Either survives a killed process.
const (
	// Normal does not wait for the disk at each transaction: after a power cut, or
	// a crash of the system, the last records may be missing. The database is whole.
	Normal Synchronous = "normal"
	// Full waits for the disk at each transaction, and survives a power cut.
	Full Synchronous = "full"
)

const (
	// busyTimeout is how long a write waits for another program's lock on the database.
	busyTimeout = 5 * time.Second
	// readers is the number of pages and exports that are read at once.
	readers = 4
	// cacheKiB is each connection's page cache.
	cacheKiB = 4096
	// keptWAL is the size in bytes to which the -wal file is cut back after an
	// export has let it grow.
	keptWAL = 64 << 20

	retentionInterval = 5 * time.Second
	retentionStep     = 200 // rows, about a millisecond

	// secondLayout names a file that was moved aside.
	secondLayout = "20060102T150405Z"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLiteOptions are those of a SQLite store.
type SQLiteOptions struct {
	// Path is the database file. It and its folder are made when they do not exist.
	Path string
	// Synchronous is Normal when empty.
	Synchronous Synchronous
	// MaxAge and MaxRows bound what is kept: older records, and the oldest of more
	// rows, are deleted within some seconds. 0 means no bound.
	MaxAge  time.Duration
	MaxRows int64
	// Count is told of the records that were written.
	Count Counter
	// Logger gets what an operator should know, as of a database that was moved aside.
	Logger *slog.Logger
}

// SQLite is the store that keeps records in a SQLite database file. It is safe for
// concurrent use; pages and exports are read beside writing.
//
// A damaged database, whether that is found at opening, by a check in the
// background, while writing or while reading, is moved aside with its -wal and
// -shm files to a name that ends in .corrupt-TIME, and a new one is begun. Nothing
// is deleted. A database whose file has vanished is begun anew.
type SQLite struct {
	options SQLiteOptions
	lock    *flock.Flock
	ctx     context.Context // ends with the store
	cancel  context.CancelFunc
	group   sync.WaitGroup // background work

	mu sync.Mutex // held while the writing connection or db is used
	// reading is held for reading by those who read from db, and for writing when db is replaced.
	reading sync.RWMutex
	db      *database // nil while there is none; changes with both locks held
}

// OpenSQLite opens or creates the database, which no other process may have open
// as a log. It makes only cheap checks; a thorough one goes on in the background.
//
// It is an error when the path is a folder or cannot be written, when the database
// is in use, was written by a newer version of this program, or is another
// program's. A full disk is none: the store then cannot be written, says so at the
// first write, and opens the database once there is room.
func OpenSQLite(ctx context.Context, options SQLiteOptions) (*SQLite, error) {
	fail := func(err error) (*SQLite, error) {
		return nil, fmt.Errorf("open prediction log %s: %w", options.Path, err)
	}
	switch options.Synchronous {
	case "":
		options.Synchronous = Normal
	case Normal, Full:
	default:
		return fail(fmt.Errorf("synchronous %q: it is %s or %s", options.Synchronous, Normal, Full))
	}
	if options.MaxAge < 0 || options.MaxRows < 0 {
		return fail(fmt.Errorf("retention: %s and %d rows: neither may be negative", options.MaxAge, options.MaxRows))
	}
	if options.Path == "" {
		return fail(errors.New("no file named"))
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	path, err := filepath.Abs(options.Path) // whatever becomes of the working directory
	if err != nil {
		return fail(err)
	}
	options.Path = path
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fail(err)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fail(errors.New("it is not a file; name the file that is to hold the log"))
	}
	s := &SQLite{options: options, lock: flock.New(path + ".lock")}
	locked, err := s.lock.TryLock()
	if err != nil {
		return fail(fmt.Errorf("lock: %w", err))
	}
	if !locked {
		return fail(fmt.Errorf("another process has it open (it holds %s.lock); stop that one, or name another file", path))
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	err = s.open(ctx)
	s.mu.Unlock()
	if err != nil && !isDisk(err) {
		s.cancel()
		return fail(errors.Join(err, s.lock.Unlock()))
	}
	if options.MaxAge > 0 || options.MaxRows > 0 {
		s.group.Go(s.keepRetention)
	}
	return s, nil
}

// database is one database file, opened.
type database struct {
	ctx    context.Context // ends when the database is to be closed
	cancel context.CancelFunc
	info   fs.FileInfo // of the file that was opened
	writer *sql.DB
	insert *inserter
	reader *sql.DB
}

// open opens the database, after moving a damaged one aside. Needs s.mu.
func (s *SQLite) open(ctx context.Context) error {
	if err := s.setWALAside(); err != nil {
		return err
	}
	db, err := s.openDatabase(ctx)
	if isCorrupt(err) {
		if err = s.closeAside(db, err); err == nil {
			db, err = s.openDatabase(ctx)
		}
	}
	if err != nil {
		db.close()
		return err
	}
	s.reading.Lock()
	s.db = db
	s.reading.Unlock()
	s.group.Go(func() { s.check(db) })
	return nil
}

// openDatabase opens or creates the database. It is to be closed even after an error.
func (s *SQLite) openDatabase(ctx context.Context) (db *database, err error) {
	db = new(database)
	db.ctx, db.cancel = context.WithCancel(s.ctx)
	// The folder may have gone since.
	if err := os.MkdirAll(filepath.Dir(s.options.Path), 0o750); err != nil {
		return db, err
	}
	if db.writer, err = sql.Open("sqlite", s.address("_synchronous", string(s.options.Synchronous), "_pragma", fmt.Sprintf("journal_size_limit(%d)", keptWAL))); err != nil {
		return db, err
	}
	db.writer.SetMaxOpenConns(1)
	if err := s.migrate(ctx, db.writer); err != nil {
		return db, err
	}
	if db.insert, err = newInserter(ctx, db.writer); err != nil {
		return db, err
	}
	if db.info, err = os.Stat(s.options.Path); err != nil {
		return db, err
	}
	if db.reader, err = sql.Open("sqlite", s.address("mode", "ro")); err != nil {
		return db, err
	}
	db.reader.SetMaxOpenConns(readers)
	db.reader.SetMaxIdleConns(1)
	return db, nil
}

// address is how the driver is told to open the file.
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

// migrate brings the tables to what this version of the program knows.
func (s *SQLite) migrate(ctx context.Context, db *sql.DB) error {
	var tables, ours int
	if err := db.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE name = 'goose_db_version') FROM sqlite_schema").Scan(&tables, &ours); err != nil {
		return err
	}
	if tables > 0 && ours == 0 {
		return errors.New("it is another program's database; name another file")
	}
	if ours > 0 {
		// A damaged page is an error here, which goose takes for a missing table.
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
		return fmt.Errorf("it cannot be put into WAL mode (it is in mode %q); name a file on a local disk", mode)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("a newer version of this program wrote it (schema %d, this one knows %d); use that version, or name another file", current, target)
	}
	_, err = provider.Up(ctx)
	return err
}

// close closes the database's connections. Its readers must have ended.
func (db *database) close() {
	db.cancel()
	if db.reader != nil {
		_ = db.reader.Close()
	}
	if db.insert != nil {
		db.insert.close()
	}
	if db.writer != nil {
		_ = db.writer.Close() // brings what is in the -wal file into the database
	}
}

// gone tells whether the file has been deleted or replaced. SQLite would go on
// writing to the file that nobody can open any more.
func (db *database) gone(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !os.SameFile(info, db.info)
}

// drop closes the database by f. Needs s.mu. Whoever is reading is interrupted first:
// a connection that closes later would delete the -wal file of the next database.
func (s *SQLite) drop(f func(db *database)) {
	s.db.cancel()
	s.reading.Lock()
	defer s.reading.Unlock()
	f(s.db)
	s.db = nil
}

// closeAside moves the damaged database aside and closes it.
func (s *SQLite) closeAside(db *database, cause error) error {
	// The files are renamed while they are open, so that closing them, which writes
	// to the database and deletes the -wal file, finds that one no more.
	err := s.moveAside(cause)
	db.close()
	if err != nil {
		// Some systems rename no open file.
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

// change lets f write to the database, which is opened, or begun anew, as need be. When
// the database is damaged f is called again with the new one.
func (s *SQLite) change(ctx context.Context, f func(*database) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	if s.db != nil && s.db.gone(s.options.Path) {
		s.options.Logger.Error("the prediction log's database has vanished; beginning a new one", "path", s.options.Path)
		s.drop((*database).close)
	}
	err := s.tryChange(ctx, f)
	if isCorrupt(err) {
		if err = s.replace(err); err == nil {
			err = s.tryChange(ctx, f)
		}
	}
	if err != nil {
		if s.db != nil && !isFull(err) && !isBusy(err) {
			s.drop((*database).close) // what is wrong with the connection ends with it
		}
		return fmt.Errorf("write prediction log %s: %w", s.options.Path, err)
	}
	return nil
}

func (s *SQLite) tryChange(ctx context.Context, f func(*database) error) error {
	if s.db == nil {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	return f(s.db)
}

// replace moves the damaged database aside and begins a new one. Needs s.mu.
func (s *SQLite) replace(cause error) error {
	if s.db == nil { // it was found while opening, which has done all that
		return cause
	}
	var err error
	s.drop(func(db *database) { err = s.closeAside(db, cause) })
	if err != nil {
		return err
	}
	return s.open(s.ctx)
}

// damaged replaces db if it is still the one in use.
func (s *SQLite) damaged(db *database, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != db || s.ctx.Err() != nil {
		return
	}
	if err := s.replace(cause); err != nil {
		s.options.Logger.Error("no new database could be begun in place of the damaged one; it is tried again with the next record", "path", s.options.Path, "error", err)
	}
}

// read lets f read from the database. It ends early, with an error, when the
// database is replaced or the store closed.
func (s *SQLite) read(ctx context.Context, f func(context.Context, *sql.DB) error) error {
	s.reading.RLock()
	db := s.db
	if db == nil {
		s.reading.RUnlock()
		return fmt.Errorf("read prediction log %s: the database cannot be opened now", s.options.Path)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(db.ctx, func() { cancel(errors.New("the database was closed")) })
	err := f(ctx, db.reader)
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

// check reads the whole database, in the background, and replaces it if it is damaged.
func (s *SQLite) check(db *database) {
	var found string
	err := func() error {
		s.reading.RLock()
		defer s.reading.RUnlock()
		if db.ctx.Err() != nil {
			return nil
		}
		// One problem is enough.
		return db.reader.QueryRowContext(db.ctx, "PRAGMA quick_check(1)").Scan(&found)
	}()
	switch {
	case db.ctx.Err() != nil:
	case isCorrupt(err):
		s.damaged(db, err)
	case err != nil:
		s.options.Logger.Warn("the prediction log's database could not be checked", "path", s.options.Path, "error", err)
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
	// The file stays: one that is deleted while another process waits for it is no lock.
	return s.lock.Unlock()
}

// keepRetention deletes what is too old or too much, again and again.
func (s *SQLite) keepRetention() {
	for {
		if err := s.retain(time.Now()); err != nil && s.ctx.Err() == nil {
			s.options.Logger.Warn("old records of the prediction log could not be deleted", "path", s.options.Path, "error", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(retentionInterval):
		}
	}
}

// retain deletes the records that are too old at the given time, or too many, in
// steps so small that no write waits long. SQLite uses the freed pages again.
func (s *SQLite) retain(now time.Time) error {
	oldest := "" // comes before every time
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
	if db == nil {
		return 0, nil, nil
	}
	// seq has no gaps, as only the oldest records are deleted: it counts rows.
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
