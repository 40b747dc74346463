package predlog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
)

// ErrSchema is returned if the database doesn't have the tables, columns, indexes and triggers that
// the log needs, or if it has further triggers: another program has changed it. Until that is undone,
// the log is read-only.
var ErrSchema = errors.New("another program has changed the schema of the database")

// newMigrations returns a provider of the migrations for the database.
func newMigrations(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
}

// object is a part of a schema.
type object struct {
	kind, name, table string // a column has the kind "column"
	sql               string // how to create an index or trigger
	required          bool   // a column that each INSERT must set
}

func (o *object) String() string {
	if o.kind == "table" {
		return "table " + o.name
	}
	return fmt.Sprintf("%s %s of table %s", o.kind, o.name, o.table)
}

// queryer is a [sql.DB] or [sql.Conn].
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// schemaOf returns the tables of a database with their columns, indexes and triggers.
func schemaOf(ctx context.Context, db queryer) (objects []object, err error) {
	rows, err := db.QueryContext(ctx, `SELECT type, name, tbl_name, coalesce(sql, ''), 0 FROM sqlite_schema WHERE type <> 'view'
		UNION ALL SELECT 'column', c.name, t.name, '', c."notnull" AND c.dflt_value IS NULL
		FROM sqlite_schema AS t, pragma_table_xinfo(t.name) AS c WHERE t.type = 'table'`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var o object
		if err := rows.Scan(&o.kind, &o.name, &o.table, &o.sql, &o.required); err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, rows.Err()
}

// checkSchema returns ErrSchema, with the first difference and how to undo it, unless the database
// has the schema of the given version. It may have further tables, indexes and nullable columns.
func checkSchema(ctx context.Context, db queryer, version int64) error {
	memory, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }()
	memory.SetMaxOpenConns(1) // each connection has its own database
	provider, err := newMigrations(memory)
	if err != nil {
		return err
	}
	if _, err := provider.UpTo(ctx, version); err != nil {
		return err
	}
	want, err := schemaOf(ctx, memory)
	if err != nil {
		return err
	}
	got, err := schemaOf(ctx, db)
	if err != nil {
		return err
	}
	find := func(objects []object, kind, name, table string) bool {
		return slices.ContainsFunc(objects, func(o object) bool { return o.kind == kind && o.name == name && o.table == table })
	}
	for _, o := range want {
		switch {
		case find(got, o.kind, o.name, o.table):
		case o.kind == "index" && o.sql == "":
			return fmt.Errorf("%w: table %s has lost a UNIQUE constraint\nhint: undo that change, or use another file", ErrSchema, o.table)
		case o.sql != "" && o.kind != "table":
			return fmt.Errorf("%w: %s is missing\nhint: create it again: %s", ErrSchema, &o, strings.Join(strings.Fields(o.sql), " "))
		default:
			return fmt.Errorf("%w: %s is missing\nhint: undo that change, or use another file", ErrSchema, &o)
		}
	}
	for _, o := range got {
		switch {
		case !find(want, "table", o.table, o.table) || find(want, o.kind, o.name, o.table):
		case o.kind == "trigger": // it could change or discard records
			return fmt.Errorf("%w: %s is unknown\nhint: delete it: DROP TRIGGER %s", ErrSchema, &o, o.name)
		case o.required:
			return fmt.Errorf("%w: %s is unknown, and must not be NULL\nhint: undo that change, or use another file", ErrSchema, &o)
		}
	}
	return nil
}
