// Package sqlite keeps the log of audit events in a SQLite file.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"kubernaut.ai/notification/internal/datastorage"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is how many queries run beside each other and beside the one writer.
const readers = 4

// store has one connection that writes, so that writers wait in this process
// and not in SQLite's busy loop, and some that can only read.
type store struct {
	writer, reader *sql.DB
	schema         int64
	// These insert rowsPerInsert rows. To parse them takes as long as to run them.
	events, bodies *sql.Stmt
}

// Open opens the database file that a URL sqlite:PATH names, and makes the file
// and its directory where they are missing. It is always safe.
func Open(ctx context.Context, databaseURL string, _ bool) (datastorage.Store, func() error, error) {
	path, _ := strings.CutPrefix(databaseURL, "sqlite:")
	if path == "" || strings.HasPrefix(path, ":") {
		return nil, nil, fmt.Errorf("%w: %q names no file; write sqlite:PATH", datastorage.ErrConfig, databaseURL)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, nil, fmt.Errorf("%w: make directory: %w", datastorage.ErrConfig, err)
	}
	// SQLite itself would only say that it cannot open the file.
	for _, name := range []string{filepath.Dir(path), path} {
		if err := syscall.Access(name, 2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%w: write to %s: %w", datastorage.ErrConfig, name, err)
		}
	}
	s := &store{}
	var err error
	if s.writer, err = connect(path, 1, "journal_mode(WAL)", "synchronous(FULL)"); err != nil {
		return nil, nil, err
	}
	if s.reader, err = connect(path, readers, "query_only(1)"); err != nil {
		return nil, nil, errors.Join(err, s.writer.Close())
	}
	if err := s.migrate(ctx, path); err != nil {
		return nil, nil, errors.Join(err, s.close())
	}
	if s.events, err = s.writer.PrepareContext(ctx, eventInsert(rowsPerInsert)); err == nil {
		s.bodies, err = s.writer.PrepareContext(ctx, bodyInsert(rowsPerInsert))
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("prepare inserts: %w", err), s.close())
	}
	return s, s.close, nil
}

func connect(path string, connections int, pragmas ...string) (*sql.DB, error) {
	// A pod's file system is read-only, and SQLite wants to put what a large
	// statement needs for its own rollback into a temporary file.
	query := url.Values{"_pragma": append([]string{"busy_timeout(10000)", "temp_store(MEMORY)"}, pragmas...)}
	if connections == 1 {
		query.Set("_txlock", "immediate")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("%w: open SQLite file: %w", datastorage.ErrConfig, err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

func (s *store) close() error { return errors.Join(s.writer.Close(), s.reader.Close()) }

// migrate brings the schema up to date. goose runs each migration in its own
// transaction, so two processes that start at once are kept apart by a
// transaction on a second file.
func (s *store) migrate(ctx context.Context, path string) error {
	lock, err := connect(path+".migrate", 1)
	if err != nil {
		return err
	}
	defer lock.Close()
	// Another process may take long. Whoever opens tries again, and can be stopped.
	if _, err := lock.ExecContext(ctx, "PRAGMA busy_timeout = 500"); err != nil {
		return fmt.Errorf("%w: lock schema: %w", datastorage.ErrConfig, err)
	}
	held, err := lock.BeginTx(ctx, nil)
	if busy, ok := errors.AsType[*driver.Error](err); ok && busy.Code() == sqlite3.SQLITE_BUSY {
		return fmt.Errorf("another process migrates the schema: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%w: lock schema: %w", datastorage.ErrConfig, err)
	}
	defer func() { _ = held.Rollback() }()

	provider, err := schemaOf(s.writer)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("%w: migrate schema: %w", datastorage.ErrConfig, err)
	}
	s.schema, err = checkSchema(ctx, provider)
	return err
}

// schemaOf knows the schema of a database and all migrations.
func schemaOf(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return provider, nil
}

// Append is as datastorage.Writer says.
func (s *store) Append(ctx context.Context, ids []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin append: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	known := datastorage.Known{Tx: reader{tx}}
	if known.Head, err = head(ctx, tx); err != nil {
		return err
	}
	if known.Stored, err = find(ctx, tx, ids); err != nil {
		return fmt.Errorf("find stored events: %w", err)
	}
	add, err := plan(known)
	if err != nil || add.Head.Verifier == "" && len(add.Conflicts) == 0 {
		return err
	}
	if err := s.insert(ctx, tx, add, known.Head.Size); err != nil {
		return fmt.Errorf("insert events: %w", err)
	}
	if err := retain(ctx, tx, add); err != nil {
		return err
	}
	if err := moveHead(ctx, tx, add); err != nil {
		return fmt.Errorf("move log head: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit append: %w", err)
	}
	return nil
}

func moveHead(ctx context.Context, tx *sql.Tx, add datastorage.Addition) error {
	for i := range add.Conflicts {
		r := &add.Conflicts[i]
		_, err := tx.ExecContext(ctx, "INSERT INTO audit_conflicts (event_id, leaf_hash, received_at, event) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			r.Event.EventID.String(), r.LeafHash[:], add.RecordedAt.UnixMicro(), string(r.Body))
		if err != nil {
			return err
		}
	}
	if add.Head.Verifier == "" {
		return nil
	}
	for i := range add.Tiles {
		t := &add.Tiles[i]
		if _, err := tx.ExecContext(ctx, "INSERT INTO audit_tiles (level, tile_index, hashes) VALUES (?, ?, ?)", t.Level, t.Index, t.Bytes()); err != nil {
			return err
		}
	}
	h := &add.Head
	if _, err := tx.ExecContext(ctx, "UPDATE audit_log_head SET size = ?, checkpoint = ?, verifier = ?", h.Size, h.Checkpoint, h.Verifier); err != nil {
		return err
	}
	if !add.Milestone {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO audit_checkpoints (size, checkpoint) VALUES (?, ?)", h.Size, h.Checkpoint)
	return err
}

// find returns those of the events that are stored, in one statement.
func find(ctx context.Context, tx querier, ids []uuid.UUID) (map[uuid.UUID]datastorage.Placed, error) {
	rows, err := tx.QueryContext(ctx, `SELECT event_id, log_index, leaf_hash FROM audit_events
		WHERE event_id IN (SELECT value FROM json_each(?))`, toJSON(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	stored := map[uuid.UUID]datastorage.Placed{}
	for rows.Next() {
		var id uuid.UUID
		var p datastorage.Placed
		var hash []byte
		if err := rows.Scan(&id, &p.LogIndex, &hash); err != nil {
			return nil, err
		}
		copy(p.LeafHash[:], hash)
		stored[id] = p
	}
	return stored, rows.Err()
}

// toJSON is what json_each makes a table of.
func toJSON(ids []uuid.UUID) string {
	list, err := json.Marshal(ids)
	if err != nil {
		panic(err) // UUIDs always have a form.
	}
	return string(list)
}

// rowsPerInsert is where longer statements stop being faster.
const rowsPerInsert = 20

func eventInsert(rows int) string {
	const row = "(?, ?, ?, ?, ?, ?, ?, NULLIF(?, ''), NULLIF(?, ''), NULLIF(?, ''), ?, ?)"
	return `INSERT INTO audit_events (log_index, event_id, event_timestamp, event_type, event_category, event_outcome,
		correlation_id, severity, resource_id, namespace, recorded_at, leaf_hash) VALUES ` + row + strings.Repeat(", "+row, rows-1)
}

func bodyInsert(rows int) string {
	const row = "(?, ?, ?, ?)"
	return "INSERT INTO audit_bodies (log_index, recorded_at, expires_at, event) VALUES " + row + strings.Repeat(", "+row, rows-1)
}

func (s *store) insert(ctx context.Context, tx *sql.Tx, add datastorage.Addition, head int64) error {
	now := add.RecordedAt.UnixMicro()
	events, bodies := make([]any, 0, 12*rowsPerInsert), make([]any, 0, 4*rowsPerInsert)
	for first := 0; first < len(add.Records); first += rowsPerInsert {
		events, bodies = events[:0], bodies[:0]
		last := min(first+rowsPerInsert, len(add.Records))
		for n := first; n < last; n++ {
			r := &add.Records[n]
			e := &r.Event
			events = append(events, head+int64(n), e.EventID.String(), e.EventTimestamp.UnixMicro(), e.EventType,
				e.EventCategory, e.EventOutcome, e.CorrelationID, e.Severity, e.ResourceID, e.Namespace, now, r.LeafHash[:])
			bodies = append(bodies, head+int64(n), now, expiresAt(r, add.RecordedAt), string(r.Body))
		}
		if err := s.insertRows(ctx, tx, last-first, events, bodies); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) insertRows(ctx context.Context, tx *sql.Tx, rows int, events, bodies []any) error {
	if rows == rowsPerInsert {
		if _, err := tx.StmtContext(ctx, s.events).ExecContext(ctx, events...); err != nil { //nolint:sqlclosecheck // the transaction closes it
			return err
		}
		_, err := tx.StmtContext(ctx, s.bodies).ExecContext(ctx, bodies...) //nolint:sqlclosecheck // the transaction closes it
		return err
	}
	if _, err := tx.ExecContext(ctx, eventInsert(rows), events...); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, bodyInsert(rows), bodies...)
	return err
}

// expiresAt is the column of that name.
func expiresAt(r *datastorage.Record, recordedAt time.Time) any {
	at, says := r.ExpiresAt(recordedAt)
	switch {
	case !says:
		return nil
	case at.IsZero():
		return datastorage.NeverExpires
	}
	return at.UnixMicro()
}

// CheckWrite is as datastorage.Store says.
func (s *store) CheckWrite(ctx context.Context) error {
	if _, err := s.writer.ExecContext(ctx, "UPDATE write_probe SET probed_at = ?", time.Now().UnixMicro()); err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	var current int64
	if err := s.reader.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version").Scan(&current); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	return datastorage.CheckSchema(current, s.schema)
}
