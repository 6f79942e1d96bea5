package dlq

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

const (
	// maxNextBytes keeps what is read at a time below what one request may carry.
	maxNextBytes = 4 << 20
	// maxReason bounds what a rejection adds to a queue that is full already.
	maxReason = 1024
)

// Put implements audit.DLQ. Where the events do not all fit, none is added.
func (f *File) Put(ctx context.Context, events []audit.Event) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.use(ctx, func(db *sql.DB) error { return f.roomOnDisk(ctx, db, events) }); err != nil {
		return 0, fmt.Errorf("put %d events: %w", len(events), err)
	}
	added, bytes, now := 0, 0, time.Now().UnixMilli()
	err := f.write(ctx, mode{durable: true}, func(tx *sql.Tx) error {
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
			bytes += len(payload)
			n, err := affected(insert.ExecContext(ctx, events[i].EventID.String(), payload, checksum(payload), now))
			if err != nil {
				return err
			}
			added += n
		}
		return nil
	})
	if isFull(err) {
		err = f.explainFull(ctx, bytes, err)
	}
	if err != nil {
		return 0, fmt.Errorf("put %d events: %w", len(events), err)
	}
	f.depth.Waiting += added
	return added, nil
}

// roomOnDisk keeps Put from taking the last of the disk, without which nothing
// that is there could be settled. It takes room from within the database first.
func (f *File) roomOnDisk(ctx context.Context, db *sql.DB, events []audit.Event) error {
	var bytes int64
	for i := range events {
		bytes += int64(len(events[i].EventData) + len(events[i].ErrorMessage) + 1024)
	}
	for before := -1; ; {
		if tight, err := f.tight(bytes); err != nil || !tight {
			return err
		}
		var unused int
		if err := db.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&unused); err != nil {
			return fmt.Errorf("look for room in database: %w", err)
		}
		if unused == before {
			return fmt.Errorf("the disk of --dlq-path %q is full but for what it takes to empty the queue; make room on it", f.dir)
		}
		before = unused
		// Little by little, since that takes room in the log.
		if _, err := db.ExecContext(ctx, "PRAGMA incremental_vacuum(128)"); err != nil && !isFull(err) {
			return fmt.Errorf("shrink database: %w", err)
		}
		if err := checkpoint(ctx, db); err != nil && !isFull(err) {
			return err
		}
	}
}

// explainFull tells a full queue from a full disk. bytes is what the payloads
// that were written came to.
func (f *File) explainFull(ctx context.Context, bytes int, cause error) error {
	var used int64
	if f.db != nil {
		err := f.db.QueryRowContext(ctx, "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count").Scan(&used)
		if err != nil {
			return errors.Join(cause, err)
		}
	}
	// Rows in pages take up to twice their bytes.
	if needed := int64(bytes)*2/pageSize + 16; used+needed > f.maxPages()-f.reserve() {
		return fmt.Errorf("the queue is full: --dlq-max-bytes is %d and %d events are there; find out why DataStorage does not take them, or allow more bytes: %w",
			f.maxBytes, f.depth.Waiting+f.depth.Rejected+f.depth.Aside, cause)
	}
	return fmt.Errorf("the disk of --dlq-path %q is full; make room on it: %w", f.dir, cause)
}

// Next implements audit.DLQ.
func (f *File) Next(ctx context.Context, limit int) ([]audit.Event, audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.partial && f.depth.Waiting == 0 {
		// What was carried over has gone, so that there is room for more.
		if err := f.use(ctx, func(*sql.DB) error { return f.carryAll(context.WithoutCancel(ctx)) }); err != nil {
			return nil, f.depth, err
		}
	}
	now := time.Now()
	if f.depth.Waiting == 0 && !f.mayBeDue(now) {
		return nil, f.depth, nil
	}
	var events []audit.Event
	var again []string
	var recheck time.Time
	depth := f.depth
	err := f.write(ctx, mode{reserve: true}, func(tx *sql.Tx) error {
		depth = f.depth
		due, later, err := f.due(ctx, tx, now, limit)
		if err != nil {
			return err
		}
		if again, err = f.offerAgain(ctx, tx, due, now, &depth); err != nil {
			return err
		}
		if recheck = later; len(again) < len(due) {
			recheck = now
		}
		if events, err = f.leastTried(ctx, tx, limit, &depth); err != nil {
			return err
		}
		return readOldest(ctx, tx, &depth)
	})
	if isFull(err) {
		err = f.explainFull(ctx, 0, err)
	}
	if err != nil {
		return nil, f.depth, fmt.Errorf("read next events: %w", err)
	}
	f.depth, f.recheck = depth, recheck
	for _, id := range again {
		delete(f.rejectedAt, id)
	}
	return events, f.depth, nil
}

func (f *File) mayBeDue(now time.Time) bool { return f.depth.Rejected > 0 && !now.Before(f.recheck) }

// due returns up to limit rejected events that are to be offered again, and when
// to look for more.
func (f *File) due(ctx context.Context, tx *sql.Tx, now time.Time, limit int) ([]string, time.Time, error) {
	if !f.mayBeDue(now) {
		return nil, f.recheck, nil
	}
	rows, err := tx.QueryContext(ctx, "SELECT event_id FROM rejected ORDER BY rowid")
	if err != nil {
		return nil, now, err
	}
	defer rows.Close()
	var due []string
	recheck := now.Add(audit.RejectedRecheck)
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, now, unreadable(err)
		}
		at, own := f.rejectedAt[id]
		switch left := audit.RejectedRecheck - now.Sub(at); {
		case own && left > 0:
			recheck = earlier(recheck, now.Add(left))
		case len(due) == limit:
			return due, now, nil
		default:
			due = append(due, id)
		}
	}
	return due, recheck, rows.Err()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// offerAgain moves rejected events to those that wait, and returns the IDs of
// those that one transaction has room for. They count as tried, so that they
// come after those that never were.
func (f *File) offerAgain(ctx context.Context, tx *sql.Tx, ids []string, now time.Time, depth *audit.Depth) ([]string, error) {
	bytes := 0
	for i, id := range ids {
		if bytes > maxNextBytes {
			return ids[:i], nil
		}
		r := row{id: id}
		err := tx.QueryRowContext(ctx, "SELECT payload, sha256, status, reason, first_at FROM rejected WHERE event_id = ?", r.id).
			Scan(&r.payload, &r.sum, &r.status, &r.reason, &r.firstAt)
		if err != nil {
			return nil, unreadable(err)
		}
		bytes += len(r.payload)
		if _, err := r.decode(); err != nil {
			if err := f.setAside(ctx, tx, &r, err, depth); err != nil {
				return nil, err
			}
		} else {
			n, err := affected(tx.ExecContext(ctx,
				"INSERT INTO waiting (event_id, payload, sha256, first_at, attempts) VALUES (?, ?, ?, ?, 1) ON CONFLICT DO NOTHING",
				r.id, r.payload, checksum(r.payload), now.UnixMilli()))
			if err != nil {
				return nil, err
			}
			depth.Waiting += n
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM rejected WHERE event_id = ?", r.id); err != nil {
			return nil, err
		}
		depth.Rejected--
	}
	return ids, nil
}

func (f *File) leastTried(ctx context.Context, tx *sql.Tx, limit int, depth *audit.Depth) ([]audit.Event, error) {
	rows, err := readWaiting(ctx, tx, limit)
	if err != nil {
		return nil, err
	}
	var events []audit.Event
	var good, bad []int64
	for i := range rows {
		r := &rows[i]
		e, err := r.decode()
		if err == nil {
			events = append(events, e)
			good = append(good, r.seq)
			continue
		}
		bad = append(bad, r.seq)
		if err := f.setAside(ctx, tx, r, err, depth); err != nil {
			return nil, err
		}
	}
	if _, err := forEach(ctx, tx, "UPDATE waiting SET attempts = attempts + 1 WHERE seq IN (SELECT value FROM json_each(?))", good); err != nil {
		return nil, err
	}
	n, err := forEach(ctx, tx, "DELETE FROM waiting WHERE seq IN (SELECT value FROM json_each(?))", bad)
	depth.Waiting -= n
	return events, err
}

// forEach runs a statement that has a list of keys as its only argument, and
// returns how many rows it changed.
func forEach[K any](ctx context.Context, tx *sql.Tx, statement string, keys []K) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	list, err := json.Marshal(keys)
	if err != nil {
		return 0, err
	}
	return affected(tx.ExecContext(ctx, statement, string(list)))
}

func readWaiting(ctx context.Context, tx *sql.Tx, limit int) ([]row, error) {
	rows, err := tx.QueryContext(ctx, "SELECT seq, event_id, payload, sha256, first_at FROM waiting ORDER BY attempts, seq LIMIT ?", limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []row
	bytes := 0
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.seq, &r.id, &r.payload, &r.sum, &r.firstAt); err != nil {
			return nil, unreadable(err)
		}
		if bytes += len(r.payload); bytes > maxNextBytes && len(list) > 0 {
			break
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

func (f *File) setAside(ctx context.Context, tx *sql.Tx, r *row, reason error, depth *audit.Depth) error {
	f.log.Error(reason, "Setting an unreadable dead letter aside", "eventID", r.id)
	_, err := tx.ExecContext(ctx, "INSERT INTO aside (event_id, payload, sha256, first_at, reason) VALUES (?, ?, ?, ?, ?)",
		r.id, r.payload, r.sum, r.firstAt, reason.Error())
	depth.Aside++
	return err
}

// Settle implements audit.DLQ. A reason longer than a KiB is cut.
func (f *File) Settle(ctx context.Context, recorded []uuid.UUID, rejected []audit.Rejection) (audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	depth, now := f.depth, time.Now()
	var err error
	if len(recorded)+len(rejected) == 0 {
		err = f.use(ctx, func(db *sql.DB) error { return readOldest(ctx, db, &depth) })
	} else {
		err = f.write(ctx, mode{durable: len(rejected) > 0, reserve: true}, func(tx *sql.Tx) error {
			depth = f.depth
			// A full queue has room for the rejected events once they wait no more.
			ids := slices.Clone(recorded)
			for i := range rejected {
				ids = append(ids, rejected[i].Event.EventID)
			}
			n, err := forEach(ctx, tx, "DELETE FROM waiting WHERE event_id IN (SELECT value FROM json_each(?))", ids)
			if err != nil {
				return err
			}
			depth.Waiting -= n
			for i := range rejected {
				if err := reject(ctx, tx, &rejected[i], now.UnixMilli(), &depth); err != nil {
					return err
				}
			}
			return readOldest(ctx, tx, &depth)
		})
	}
	if isFull(err) {
		err = f.explainFull(ctx, 0, err)
	}
	if err != nil {
		return f.depth, fmt.Errorf("settle %d events: %w", len(recorded)+len(rejected), err)
	}
	f.depth = depth
	for i := range rejected {
		f.rejectedAt[rejected[i].Event.EventID.String()] = now
	}
	return f.depth, nil
}

func reject(ctx context.Context, tx *sql.Tx, rejection *audit.Rejection, now int64, depth *audit.Depth) error {
	payload, err := json.Marshal(&rejection.Event)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", rejection.Event.EventID, err)
	}
	r := row{id: rejection.Event.EventID.String(), payload: payload, status: int64(rejection.Status), reason: rejection.Reason}
	if len(r.reason) > maxReason {
		r.reason = strings.ToValidUTF8(r.reason[:maxReason], "")
	}
	known, err := affected(tx.ExecContext(ctx, "UPDATE rejected SET payload = ?, status = ?, reason = ?, last_at = ?, sha256 = ? WHERE event_id = ?",
		r.payload, r.status, r.reason, now, r.checksum(), r.id))
	if err != nil || known > 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO rejected (event_id, payload, status, reason, first_at, last_at, sha256) VALUES (?, ?, ?, ?, ?, ?, ?)",
		r.id, r.payload, r.status, r.reason, now, now, r.checksum())
	depth.Rejected++
	return err
}

func affected(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readOldest(ctx context.Context, q querier, depth *audit.Depth) error {
	depth.Oldest = time.Time{}
	if depth.Waiting == 0 {
		return nil
	}
	var at int64
	if err := q.QueryRowContext(ctx, "SELECT first_at FROM waiting ORDER BY seq LIMIT 1").Scan(&at); err != nil {
		return fmt.Errorf("read oldest event: %w", unreadable(err))
	}
	depth.Oldest = time.UnixMilli(at)
	return nil
}
