package dlq

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	"modernc.org/sqlite"

	"kubernaut.ai/notification/internal/audit"
)

const (
	pageSize      = 4096
	schemaVersion = 1
	// maxWAL has room for one transaction with all that the store holds in memory.
	maxWAL = 40 << 20
	// usualWAL is how far the log grows with transactions of the usual size: to
	// empty it costs two fsyncs, and writes all of it once more.
	usualWAL = 4 << 20
	// perWrite is what a transaction adds to the log besides the payload.
	perWrite = 6 * pageSize
	// keepOnDisk is what Put leaves free, for rejections and removals.
	keepOnDisk = 2 << 20
)

// A row of batches holds events that came together, as a JSON array; a row of
// rejected holds one, as an object. Times are Unix milliseconds.
const schema = `
CREATE TABLE batches (
	seq     INTEGER PRIMARY KEY,
	at      INTEGER NOT NULL,
	events  INTEGER NOT NULL,
	payload TEXT    NOT NULL,
	crc32c  INTEGER NOT NULL
);
CREATE TABLE rejected (
	event_id TEXT    PRIMARY KEY,
	at       INTEGER NOT NULL,
	status   INTEGER NOT NULL,
	reason   TEXT    NOT NULL,
	payload  TEXT    NOT NULL,
	crc32c   INTEGER NOT NULL
);`

// openDB opens or creates a database. Its log is emptied by write alone, which
// sees the errors that SQLite's own checkpoint would keep to itself.
func openDB(dir string) (*sql.DB, error) {
	path, err := filepath.Abs(filepath.Join(dir, dbName))
	if err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"_pragma": {
		fmt.Sprintf("page_size(%d)", pageSize), "busy_timeout(1000)", "journal_mode(WAL)", "synchronous(FULL)",
		// Temporary files would need a directory to write to beside this one.
		"temp_store(MEMORY)",
		"wal_autocheckpoint(0)", fmt.Sprintf("journal_size_limit(%d)", usualWAL),
	}}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func (f *File) maxWAL() int64 { return min(f.maxBytes/2, maxWAL) }

// maxPages leaves room for the index that SQLite makes of the log, too.
func (f *File) maxPages() int64 { return (f.maxBytes - f.maxWAL() - 64<<10) / pageSize }

// write runs fn, which adds about size bytes, in a transaction that keeps the
// database within so many pages. It removes what is finished.
func (f *File) write(ctx context.Context, size int, pages int64, fn func(*sql.Tx) error) error {
	err := f.transact(ctx, size, pages, fn)
	if isFull(err) {
		return f.explainFull(ctx, size, pages, err)
	}
	return err
}

func (f *File) transact(ctx context.Context, size int, pages int64, fn func(*sql.Tx) error) error {
	logged := int64(size)/pageSize*(pageSize+24) + int64(f.finished.count()+1)*perWrite
	if f.wal > 0 && f.wal+logged > min(usualWAL, f.maxWAL()) {
		if err := f.checkpoint(ctx, "PASSIVE"); err != nil {
			return err
		}
	}
	if pages != f.pages {
		if _, err := f.db.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", min(pages, 1<<32-2))); err != nil {
			return fmt.Errorf("limit size: %w", err)
		}
		f.pages = pages
	}
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	f.wal += logged
	if err = f.finished.remove(ctx, tx); err == nil {
		err = fn(tx)
	}
	if err != nil {
		// SQLite has rolled back by itself where this fails.
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	f.finished = removals{}
	return nil
}

func removeBatches(ctx context.Context, tx *sql.Tx, seqs []int64) error {
	for _, seq := range seqs {
		if _, err := tx.ExecContext(ctx, "DELETE FROM batches WHERE seq = ?", seq); err != nil {
			return err
		}
	}
	return nil
}

func (r *removals) remove(ctx context.Context, tx *sql.Tx) error {
	if err := removeBatches(ctx, tx, r.batches); err != nil {
		return err
	}
	for _, id := range r.rejected {
		if _, err := tx.ExecContext(ctx, "DELETE FROM rejected WHERE event_id = ?", id.String()); err != nil {
			return err
		}
	}
	return nil
}

func insert(ctx context.Context, tx *sql.Tx, rows []row, now time.Time) error {
	statement, err := tx.PrepareContext(ctx, "INSERT INTO batches (at, events, payload, crc32c) VALUES (?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer statement.Close()
	for i := range rows {
		r := &rows[i]
		result, err := statement.ExecContext(ctx, now.UnixMilli(), len(r.ids), string(r.payload), checksum(r.payload, 0, ""))
		if err != nil {
			return err
		}
		if r.seq, err = result.LastInsertId(); err != nil {
			return err
		}
	}
	return nil
}

// checkpoint moves what is in the log to the database. PASSIVE lets the next
// transaction write over the log, which is faster than to make the file grow.
func (f *File) checkpoint(ctx context.Context, kind string) error {
	if _, err := f.db.ExecContext(ctx, "PRAGMA wal_checkpoint("+kind+")"); err != nil {
		return fmt.Errorf("empty write-ahead log: %w", err)
	}
	f.wal = 0
	return nil
}

// shrink gives the room of a queue back that has been emptied.
func (f *File) shrink(ctx context.Context) error {
	var pages int64
	if err := f.db.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil || pages <= min(usualWAL/pageSize, f.maxPages()) {
		return err
	}
	_, err := f.db.ExecContext(ctx, "VACUUM")
	if err == nil {
		err = f.checkpoint(ctx, "TRUNCATE")
	}
	return err
}

// roomOnDisk keeps Put from taking the last of the disk.
func (f *File) roomOnDisk(ctx context.Context, size int64) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(f.dir, &disk); err != nil {
		return fmt.Errorf("look for room on disk: %w", err)
	}
	// The events are once in the log and once in the database.
	free, needed := float64(disk.Bavail)*float64(disk.Bsize), float64(keepOnDisk+2*size)
	if free >= needed {
		return nil
	}
	var unused float64
	if err := f.db.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&unused); err != nil {
		return fmt.Errorf("look for room in database: %w", err)
	}
	if free+min(unused*pageSize, float64(size)) >= needed {
		return nil
	}
	return fmt.Errorf("the disk of --dlq-path %q is full but for what it takes to empty the queue; make room on it", f.dir)
}

// explainFull tells a full queue from a full disk.
func (f *File) explainFull(ctx context.Context, size int, pages int64, cause error) error {
	var used int64
	if err := f.db.QueryRowContext(ctx, "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count").Scan(&used); err != nil {
		return errors.Join(cause, err)
	}
	// A row may leave half of a page unused.
	if used+2*int64(size)/pageSize+16 > pages {
		return fmt.Errorf("the queue is full: --dlq-max-bytes is %d and %d events are there; find out why DataStorage does not take them, or allow more bytes: %w",
			f.maxBytes, len(f.letters)+len(f.resting)+f.aside, cause)
	}
	return fmt.Errorf("the disk of --dlq-path %q is full; make room on it: %w", f.dir, cause)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C of what a row holds. It binds what DataStorage said of a
// rejected event too.
func checksum(payload []byte, status int, reason string) uint32 {
	sum := crc32.Checksum(payload, castagnoli)
	if status == 0 {
		return sum
	}
	return crc32.Update(sum, castagnoli, []byte(strconv.Itoa(status)+reason))
}

// unreadableError is of a row that is not what was written to it, while others
// can be read.
type unreadableError struct{ error }

func isUnreadable(err error) bool {
	_, ok := errors.AsType[unreadableError](err)
	return ok
}

// unreadable makes a row unreadable that SQLite did read.
func unreadable(err error) error {
	if _, ofSQLite := errors.AsType[*sqlite.Error](err); ofSQLite || err == nil ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return unreadableError{err}
}

const (
	batchColumns    = "seq, at, events, CAST(payload AS BLOB), crc32c"
	rejectedColumns = "event_id, status, reason, CAST(payload AS BLOB), crc32c"
)

type scanner interface{ Scan(...any) error }

// scanBatch returns as much of a row as can be read, with an error where its
// events cannot be trusted.
func scanBatch(s scanner) (b batch, held int, events []audit.Event, err error) {
	var at int64
	var payload []byte
	var sum uint32
	if err := s.Scan(&b.seq, &at, &held, &payload, &sum); err != nil {
		return b, max(held, 1), nil, unreadable(err)
	}
	b.at = time.UnixMilli(at)
	if checksum(payload, 0, "") != sum {
		return b, max(held, 1), nil, unreadableError{errors.New("the checksum does not match")}
	}
	if err := json.Unmarshal(payload, &events); err != nil {
		return b, max(held, 1), nil, unreadableError{fmt.Errorf("decode events: %w", err)}
	}
	return b, held, events, nil
}

// scanRejected is scanBatch for a row of rejected.
func scanRejected(s scanner) (e audit.Event, err error) {
	var id, reason string
	var status int
	var payload []byte
	var sum uint32
	if err := s.Scan(&id, &status, &reason, &payload, &sum); err != nil {
		return e, unreadable(err)
	}
	if checksum(payload, status, reason) != sum {
		return e, unreadableError{errors.New("the checksum does not match")}
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, unreadableError{fmt.Errorf("decode event: %w", err)}
	}
	if e.EventID.String() != id {
		return e, unreadableError{fmt.Errorf("the row of event %s holds event %s", id, e.EventID)}
	}
	return e, nil
}

// read returns what the row of a letter holds.
func (f *File) read(ctx context.Context, l *letter) (map[uuid.UUID]audit.Event, error) {
	if l.batch.seq == 0 {
		e, err := scanRejected(f.db.QueryRowContext(ctx, "SELECT "+rejectedColumns+" FROM rejected WHERE event_id = ?", l.id.String()))
		return map[uuid.UUID]audit.Event{e.EventID: e}, err
	}
	_, _, events, err := scanBatch(f.db.QueryRowContext(ctx, "SELECT "+batchColumns+" FROM batches WHERE seq = ?", l.batch.seq))
	held := make(map[uuid.UUID]audit.Event, len(events))
	for _, e := range events {
		held[e.EventID] = e
	}
	return held, err
}

// load makes the index from the database. Where there was an index before, what
// was settled stays settled, and what is gone is counted.
func (f *File) load(ctx context.Context) error {
	x, finished, aside, unreadable := newIndex(), removals{}, 0, map[int64]bool{}
	err := f.each(ctx, "SELECT "+rejectedColumns+" FROM rejected ORDER BY rowid", func(s scanner) error {
		e, err := scanRejected(s)
		if isUnreadable(err) {
			aside, unreadable[0] = aside+1, true
			return nil
		}
		if err == nil {
			x.restUntil(e.EventID, time.Time{})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read rejected events: %w", err)
	}
	err = f.each(ctx, "SELECT "+batchColumns+" FROM batches ORDER BY seq", func(s scanner) error {
		b, held, events, err := scanBatch(s)
		if isUnreadable(err) {
			aside, unreadable[b.seq] = aside+held, true
			return nil
		}
		var waiting []uuid.UUID
		for _, e := range events {
			if _, rejected := x.resting[e.EventID]; !rejected && x.letters[e.EventID] == nil {
				waiting = append(waiting, e.EventID)
			}
		}
		if err == nil && len(waiting) == 0 {
			finished.batches = append(finished.batches, b.seq)
		} else if err == nil {
			x.add(&b, waiting, 0)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	before, known := f.index, f.unreadable
	f.index, f.finished, f.unreadable = x, finished, unreadable
	if before.letters == nil {
		f.aside = aside
		return nil
	}
	f.aside += len(missing(before, x))
	for _, id := range missing(x, before) {
		row := int64(0)
		if l := x.letters[id]; l != nil {
			row = l.batch.seq
		}
		if known[row] { // Now it can be read.
			f.aside = max(0, f.aside-1)
		} else {
			f.finish(id)
		}
	}
	return nil
}

func (f *File) each(ctx context.Context, query string, fn func(scanner) error) error {
	rows, err := f.db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
