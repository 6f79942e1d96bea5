package dlq

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	_ "modernc.org/sqlite" // registers the driver

	"kubernaut.ai/notification/internal/audit"
)

// schemaVersion is the user_version of the database that this code writes. It
// reads version 1 as well, where rejected had no checksum and carried was missing.
const schemaVersion = 2

// The order of waiting is attempts, then seq: an event that DataStorage cannot
// digest must not keep those behind it back for ever. read is how many events of
// a damaged file were gone through, missing how many it held without their being
// found, NULL where nobody knows.
const (
	schema = `
CREATE TABLE waiting (
	seq      INTEGER PRIMARY KEY,
	event_id TEXT    NOT NULL UNIQUE,
	payload  BLOB    NOT NULL,
	sha256   BLOB    NOT NULL,
	first_at INTEGER NOT NULL,
	attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX waiting_order ON waiting (attempts, seq);
CREATE TABLE rejected (
	event_id TEXT    PRIMARY KEY,
	payload  BLOB    NOT NULL,
	status   INTEGER NOT NULL,
	reason   TEXT    NOT NULL,
	first_at INTEGER NOT NULL,
	last_at  INTEGER NOT NULL,
	sha256   BLOB    NOT NULL DEFAULT x''
);
CREATE TABLE aside (
	seq      INTEGER PRIMARY KEY,
	event_id TEXT    NOT NULL,
	payload  BLOB    NOT NULL,
	sha256   BLOB    NOT NULL,
	first_at INTEGER NOT NULL,
	reason   TEXT    NOT NULL
);` + schemaCarried
	schemaCarried = `
CREATE TABLE carried (
	at      TEXT    PRIMARY KEY,
	read    INTEGER NOT NULL DEFAULT 0,
	missing INTEGER
);`
)

// row is one event as it is stored. What a table has no column for is zero.
type row struct {
	seq             int64
	id              string
	payload, sum    []byte
	firstAt, lastAt int64
	attempts        int64
	status          int64
	reason          string
}

// checksum binds what DataStorage said of a rejected event too.
func (r *row) checksum() []byte {
	if r.status == 0 {
		return checksum(r.payload)
	}
	return checksum(r.payload, strconv.FormatInt(r.status, 10), r.reason)
}

func checksum(payload []byte, more ...string) []byte {
	h := sha256.New()
	h.Write(payload)
	for _, s := range more {
		h.Write([]byte(s))
	}
	return h.Sum(nil)
}

// decode returns the event, or why it cannot be trusted.
func (r *row) decode() (audit.Event, error) {
	e, err := r.event()
	if err == nil && e.EventID.String() != r.id {
		err = fmt.Errorf("the row of event %s holds event %s", r.id, e.EventID)
	}
	return e, err
}

// event is decode for a row whose ID may be damaged.
func (r *row) event() (e audit.Event, err error) {
	if string(r.checksum()) != string(r.sum) {
		return e, errors.New("the checksum does not match")
	}
	if err := json.Unmarshal(r.payload, &e); err != nil {
		return e, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}

func (f *File) openDB(name string) (*sql.DB, error) {
	path, err := filepath.Abs(f.path(name))
	if err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"_pragma": {
			"busy_timeout(1000)", "journal_mode(WAL)", "synchronous(FULL)",
			// Temporary files would need a directory to write to beside this one.
			"temp_store(MEMORY)",
			"wal_autocheckpoint(0)", // bound does it
			// What has been removed must not be found by a search for what is left.
			"secure_delete(ON)",
		},
		// So that a queue that has been emptied can give its room back.
		"_auto_vacuum": {"incremental"},
		"_txlock":      {"immediate"},
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// create makes an empty database. Where it takes the place of a damaged one,
// missing is how many events that held, if anybody knows.
func (f *File) create(ctx context.Context, damaged string, missing sql.NullInt64) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(f.path(newName + suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	db, err := f.openDB(newName)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf("BEGIN; %s; PRAGMA user_version = %d; COMMIT", schema, schemaVersion))
	if err == nil && damaged != "" {
		_, err = db.ExecContext(ctx, "INSERT INTO carried (at, missing) VALUES (?, ?)", damaged, missing)
	}
	if err == nil {
		// The closing would keep an error to itself.
		err = checkpoint(ctx, db)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create database: %w", f.explainOpen(err))
	}
	if err := os.Rename(f.path(newName), f.path(dbName)); err != nil {
		return err
	}
	return f.sync()
}

func (f *File) explainOpen(err error) error {
	if isFull(err) {
		return fmt.Errorf("the disk is full; make room on it: %w", err)
	}
	return err
}

// sync makes the names of the files durable.
func (f *File) sync() error {
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prepare checks the database, brings it to the current schema and counts what
// is there. It always writes, so that a disk that is full or read-only is found
// now and not at the first outage.
func (f *File) prepare(ctx context.Context) error {
	var version int
	if err := f.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > schemaVersion {
		return fmt.Errorf("the schema version is %d and this program knows only %d; use the program that wrote it or another directory", version, schemaVersion)
	}
	if version < 1 {
		return damageError{fmt.Errorf("the schema version is %d", version)}
	}
	var verdict string
	if err := f.db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("check database: %w", unreadable(err))
	}
	if verdict != "ok" {
		return damageError{errors.New(strings.TrimSpace(verdict))}
	}
	if err := checkpoint(ctx, f.db); err != nil && !isFull(err) {
		return err
	}
	if err := f.db.QueryRowContext(ctx, "PRAGMA page_count").Scan(&f.pages); err != nil {
		return fmt.Errorf("read size: %w", err)
	}
	err := f.transact(ctx, f.db, mode{durable: true, reserve: true}, func(tx *sql.Tx) error {
		if version == 1 {
			if err := upgrade(ctx, tx); err != nil {
				return fmt.Errorf("upgrade schema: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
			return fmt.Errorf("write schema version: %w", err)
		}
		if err := f.forgetDeleted(ctx, tx); err != nil {
			return err
		}
		return f.count(ctx, tx)
	})
	return f.explainOpen(err)
}

func upgrade(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, "ALTER TABLE rejected ADD COLUMN sha256 BLOB NOT NULL DEFAULT x'';"+schemaCarried); err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, "SELECT event_id, payload, status, reason FROM rejected")
	if err != nil {
		return err
	}
	defer rows.Close()
	sums := make(map[string][]byte)
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.payload, &r.status, &r.reason); err != nil {
			return unreadable(err)
		}
		sums[r.id] = r.checksum()
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for id, sum := range sums {
		if _, err := tx.ExecContext(ctx, "UPDATE rejected SET sha256 = ? WHERE event_id = ?", sum, id); err != nil {
			return err
		}
	}
	return nil
}

// count names all columns, so that a damaged schema is found too.
func (f *File) count(ctx context.Context, q querier) error {
	var missing int
	err := q.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM (SELECT seq, event_id, payload, sha256, first_at, attempts FROM waiting)),
		(SELECT count(*) FROM (SELECT event_id, payload, status, reason, first_at, last_at, sha256 FROM rejected)),
		(SELECT count(*) FROM (SELECT seq, event_id, payload, sha256, first_at, reason FROM aside)),
		(SELECT ifnull(sum(missing), 0) FROM (SELECT at, read, missing FROM carried))`).
		Scan(&f.depth.Waiting, &f.depth.Rejected, &f.depth.Aside, &missing)
	f.depth.Aside += missing
	return err
}

// forgetDeleted drops the counts of suspect files that a person has deleted.
func (f *File) forgetDeleted(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, "SELECT at FROM carried")
	if err != nil {
		return err
	}
	defer rows.Close()
	var gone []string
	for rows.Next() {
		var at string
		if err := rows.Scan(&at); err != nil {
			return unreadable(err)
		}
		if !f.isThere(damagedName+at) && !f.isThere(suspectName+at) {
			gone = append(gone, at)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, at := range gone {
		if _, err := tx.ExecContext(ctx, "DELETE FROM carried WHERE at = ?", at); err != nil {
			return err
		}
	}
	return nil
}
