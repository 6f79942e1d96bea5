// Package dlq keeps audit events that DataStorage could not or would not take.
package dlq

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	_ "modernc.org/sqlite" // registers the driver

	"kubernaut.ai/notification/internal/audit"
)

// schemaVersion is the user_version of the database that this code reads.
const schemaVersion = 1

// The order of waiting is attempts, then seq: an event that DataStorage cannot
// digest must not keep those behind it back for ever.
const schema = `
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
	last_at  INTEGER NOT NULL
);
CREATE TABLE aside (
	seq      INTEGER PRIMARY KEY,
	event_id TEXT    NOT NULL,
	payload  BLOB    NOT NULL,
	sha256   BLOB    NOT NULL,
	first_at INTEGER NOT NULL,
	reason   TEXT    NOT NULL
);
`

// File is a dead-letter queue in a directory of the local disk, owned by one
// process at a time. Times in it are Unix milliseconds. It is safe for use by
// several goroutines.
type File struct {
	log  logr.Logger
	lock *os.File
	db   *sql.DB

	mu    sync.Mutex // keeps depth and the database in step, and the pragma with its transaction
	depth audit.Depth
}

var _ audit.DLQ = (*File)(nil)

// Open creates the directory where it is missing, takes its lock, and makes sure
// that the database can be written. Errors name the flag and the directory.
func Open(dir string, log logr.Logger) (*File, error) {
	f := &File{log: log.WithName("audit-dlq")}
	if err := f.open(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open dead-letter queue in --dlq-path %q: %w", dir, err), f.Close())
	}
	return f, nil
}

func (f *File) open(dir string) error {
	if dir == "" {
		return errors.New("a directory on a local disk is required")
	}
	// The events tell who was told what: nobody else's business.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.lock = lock
	// The kernel lets go of this lock when its process dies, however it dies.
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another process uses it; each process needs a directory of its own")
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path, err := filepath.Abs(filepath.Join(dir, "events.db"))
	if err != nil {
		return err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		// Temporary files would need a directory to write to beside dir.
		"_pragma": {"busy_timeout(5000)", "temp_store(MEMORY)", "journal_mode(WAL)", "synchronous(FULL)", "journal_size_limit(16777216)"},
		"_txlock": {"immediate"},
	}.Encode()}
	f.db, err = sql.Open("sqlite", dsn.String())
	if err != nil {
		return err
	}
	f.db.SetMaxOpenConns(1)
	return f.prepare(context.Background())
}

// prepare creates or checks the schema. It always writes, so that a disk that is
// full or read-only is found now and not at the first outage.
func (f *File) prepare(ctx context.Context) error {
	var version int
	if err := f.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version != 0 && version != schemaVersion {
		return fmt.Errorf("the schema version is %d and this program knows only %d; use the program that wrote it or another directory", version, schemaVersion)
	}
	return f.write(ctx, true, func(tx *sql.Tx) error {
		if version == 0 {
			if _, err := tx.ExecContext(ctx, schema); err != nil {
				return fmt.Errorf("create schema: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
			return fmt.Errorf("write schema version: %w", err)
		}
		row := tx.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM waiting), (SELECT count(*) FROM rejected), (SELECT count(*) FROM aside)")
		return row.Scan(&f.depth.Waiting, &f.depth.Rejected, &f.depth.Aside)
	})
}

// Close lets go of the directory. The queue cannot be used afterwards.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	if f.db != nil {
		errs = append(errs, f.db.Close())
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
	}
	f.db, f.lock = nil, nil
	return errors.Join(errs...)
}

// write runs fn in a transaction. One that is not durable survives the death of
// the process but perhaps not that of the machine: enough for a removal, since
// an event that comes back is only sent once more.
func (f *File) write(ctx context.Context, durable bool, fn func(*sql.Tx) error) error {
	if f.db == nil {
		return errors.New("the queue is closed")
	}
	level := "NORMAL"
	if durable {
		level = "FULL"
	}
	if _, err := f.db.ExecContext(ctx, "PRAGMA synchronous = "+level); err != nil {
		return fmt.Errorf("set durability: %w", err)
	}
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Put implements audit.DLQ.
func (f *File) Put(ctx context.Context, events []audit.Event) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	added, now := 0, time.Now().UnixMilli()
	err := f.write(ctx, true, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, "INSERT INTO waiting (event_id, payload, sha256, first_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
		if err != nil {
			return err
		}
		defer insert.Close()
		for i := range events {
			payload, err := json.Marshal(&events[i])
			if err != nil {
				return fmt.Errorf("encode event %s: %w", events[i].EventID, err)
			}
			sum := sha256.Sum256(payload)
			n, err := affected(insert.ExecContext(ctx, events[i].EventID.String(), payload, sum[:], now))
			if err != nil {
				return err
			}
			added += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("put %d events: %w", len(events), err)
	}
	f.depth.Waiting += added
	return added, nil
}

// row is one waiting event as it is stored.
type row struct {
	seq          int64
	id           string
	payload, sum []byte
}

// Next implements audit.DLQ. It sets aside what it cannot read.
func (f *File) Next(ctx context.Context, limit int) ([]audit.Event, audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.depth.Waiting == 0 {
		return nil, f.depth, nil
	}
	var events []audit.Event
	var aside int
	err := f.write(ctx, false, func(tx *sql.Tx) error {
		rows, err := oldest(ctx, tx, limit)
		if err != nil {
			return err
		}
		for _, r := range rows {
			e, err := r.decode()
			if err != nil {
				f.log.Error(err, "Setting an unreadable dead letter aside", "eventID", r.id)
				aside++
				err = setAside(ctx, tx, r.seq, err.Error())
			} else {
				events = append(events, e)
				_, err = tx.ExecContext(ctx, "UPDATE waiting SET attempts = attempts + 1 WHERE seq = ?", r.seq)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, f.depth, fmt.Errorf("read next events: %w", err)
	}
	f.depth.Waiting -= aside
	f.depth.Aside += aside
	return events, f.depth, nil
}

// maxNextBytes keeps what is read at a time below what one request may carry.
const maxNextBytes = 4 << 20

func oldest(ctx context.Context, tx *sql.Tx, limit int) ([]row, error) {
	rows, err := tx.QueryContext(ctx, "SELECT seq, event_id, payload, sha256 FROM waiting ORDER BY attempts, seq LIMIT ?", limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []row
	for bytes := 0; bytes < maxNextBytes && rows.Next(); {
		var r row
		if err := rows.Scan(&r.seq, &r.id, &r.payload, &r.sum); err != nil {
			return nil, err
		}
		list = append(list, r)
		bytes += len(r.payload)
	}
	return list, rows.Err()
}

func (r row) decode() (audit.Event, error) {
	var e audit.Event
	if sum := sha256.Sum256(r.payload); string(sum[:]) != string(r.sum) {
		return e, errors.New("the checksum does not match")
	}
	if err := json.Unmarshal(r.payload, &e); err != nil {
		return e, fmt.Errorf("decode event: %w", err)
	}
	if e.EventID.String() != r.id {
		return e, fmt.Errorf("the row of event %s holds event %s", r.id, e.EventID)
	}
	return e, nil
}

func setAside(ctx context.Context, tx *sql.Tx, seq int64, reason string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO aside (event_id, payload, sha256, first_at, reason)
		SELECT event_id, payload, sha256, first_at, ? FROM waiting WHERE seq = ?`, reason, seq)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM waiting WHERE seq = ?", seq)
	return err
}

// Settle implements audit.DLQ.
func (f *File) Settle(ctx context.Context, recorded []uuid.UUID, rejected []audit.Rejection) (audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	depth := f.depth
	if len(recorded)+len(rejected) > 0 {
		err := f.write(ctx, len(rejected) > 0, func(tx *sql.Tx) error {
			for _, id := range recorded {
				if err := remove(ctx, tx, id, &depth); err != nil {
					return err
				}
			}
			for i := range rejected {
				if err := reject(ctx, tx, &rejected[i], &depth); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return f.depth, fmt.Errorf("settle %d events: %w", len(recorded)+len(rejected), err)
		}
		f.depth = depth
	}
	if err := f.readOldest(ctx); err != nil {
		return f.depth, err
	}
	return f.depth, nil
}

func remove(ctx context.Context, tx *sql.Tx, id uuid.UUID, depth *audit.Depth) error {
	n, err := affected(tx.ExecContext(ctx, "DELETE FROM waiting WHERE event_id = ?", id.String()))
	depth.Waiting -= n
	return err
}

func reject(ctx context.Context, tx *sql.Tx, r *audit.Rejection, depth *audit.Depth) error {
	payload, err := json.Marshal(&r.Event)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", r.Event.EventID, err)
	}
	id, now := r.Event.EventID.String(), time.Now().UnixMilli()
	known, err := affected(tx.ExecContext(ctx, "UPDATE rejected SET payload = ?, status = ?, reason = ?, last_at = ? WHERE event_id = ?",
		payload, r.Status, r.Reason, now, id))
	if err != nil {
		return err
	}
	if known == 0 {
		_, err := tx.ExecContext(ctx, "INSERT INTO rejected (event_id, payload, status, reason, first_at, last_at) VALUES (?, ?, ?, ?, ?, ?)",
			id, payload, r.Status, r.Reason, now, now)
		if err != nil {
			return err
		}
		depth.Rejected++
	}
	return remove(ctx, tx, r.Event.EventID, depth)
}

func affected(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

func (f *File) readOldest(ctx context.Context) error {
	f.depth.Oldest = time.Time{}
	if f.db == nil || f.depth.Waiting == 0 {
		return nil
	}
	var at int64
	if err := f.db.QueryRowContext(ctx, "SELECT first_at FROM waiting ORDER BY seq LIMIT 1").Scan(&at); err != nil {
		return fmt.Errorf("read oldest event: %w", err)
	}
	f.depth.Oldest = time.UnixMilli(at)
	return nil
}
