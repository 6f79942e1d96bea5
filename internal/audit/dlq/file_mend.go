package dlq

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	dbName  = "events.db"
	walName = dbName + "-wal"
	// newName is a database that is being created. Under its own name a database
	// has a schema, or has been damaged.
	newName = dbName + ".new"
	// damagedName is a database that has readable events yet, suspectName one
	// that has been read. A time follows.
	damagedName = dbName + ".damaged-"
	suspectName = dbName + ".suspect-"
)

// damageError says that a file is not what was written to it.
type damageError struct{ error }

// unreadable makes a damage of the failure to read a row that SQLite did read.
func unreadable(err error) error {
	if _, ofSQLite := errors.AsType[*sqlite.Error](err); ofSQLite || err == nil ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return damageError{err}
}

func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return sqlite3.SQLITE_OK
}

func isFull(err error) bool { return code(err)&0xff == sqlite3.SQLITE_FULL }

// isDamage reports whether a database can be trusted no longer. After a failed
// fsync that includes what a second one would claim to have written.
func isDamage(err error) bool {
	if _, ok := errors.AsType[damageError](err); ok {
		return true
	}
	switch c := code(err); c {
	case sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMLOCK, sqlite3.SQLITE_IOERR_SHMMAP:
		return false // The index of the log is not kept from one process to the next.
	default:
		return c&0xff == sqlite3.SQLITE_IOERR || c&0xff == sqlite3.SQLITE_CORRUPT || c&0xff == sqlite3.SQLITE_NOTADB
	}
}

// isDamageAtOpen takes more for damage: nobody but this program writes the SQL,
// so that what SQLite cannot make sense of is the file.
func isDamageAtOpen(err error) bool {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return isDamage(err)
}

// attach opens the database. One that is damaged it replaces, and carries over
// what can be read of it.
func (f *File) attach(ctx context.Context) error {
	known := sql.NullInt64{Int64: int64(f.depth.Waiting + f.depth.Rejected + f.depth.Aside), Valid: f.bad != nil}
	if f.bad == nil {
		f.bad = f.connect(ctx)
		exists := f.isThere(dbName) || f.isThere(walName)
		if f.bad != nil && (!exists || !isDamageAtOpen(f.bad)) {
			err := f.bad
			f.bad = nil
			return errors.Join(err, f.detach())
		}
	}
	if f.bad != nil {
		// Closing writes to the files once more. Whether it can is of no interest.
		_ = f.detach()
		f.log.Error(f.bad, "The dead-letter queue's database is damaged; replacing it")
		if err := f.setApart(ctx, known); err != nil {
			return err
		}
		f.bad = nil
		if err := f.connect(ctx); err != nil {
			return errors.Join(err, f.detach())
		}
	}
	err := f.carryAll(ctx)
	if err != nil {
		if isDamage(err) {
			f.bad = err
		}
		return errors.Join(err, f.detach())
	}
	return nil
}

// connect opens the database and checks it.
func (f *File) connect(ctx context.Context) error {
	if err := f.finishSettingApart(); err != nil {
		return err
	}
	_, err := os.Stat(f.path(dbName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(f.path(walName)); err == nil {
			return damageError{errors.New("a write-ahead log has no database")}
		}
		err = f.create(ctx, "", sql.NullInt64{})
	}
	if err != nil {
		return err
	}
	if err := checkFiles(f.path(dbName)); err != nil {
		return err
	}
	if f.db, err = f.openDB(dbName); err != nil {
		return err
	}
	return f.prepare(ctx)
}

// checkFiles finds the damage that SQLite would not speak of: it takes an empty
// file for a new database, and a log that is damaged for one that ends there.
func checkFiles(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < pageSize {
		return damageError{fmt.Errorf("the database has %d bytes", info.Size())}
	}
	wal, err := openIfThere(path + "-wal")
	if wal == nil {
		return err
	}
	defer wal.Close()
	if _, err := scanWAL(wal); err != nil {
		return damageError{err}
	}
	return nil
}

// setApart moves the database out of the way of a new one, its log first: a
// log without its database is how finishSettingApart knows that this was begun.
func (f *File) setApart(ctx context.Context, known sql.NullInt64) error {
	at := time.Now().UTC().Format("20060102T150405.000000000Z")
	if f.isThere(dbName) || f.isThere(walName) {
		err := os.Rename(f.path(walName), f.path(damagedName+at+"-wal"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := f.moveDB(damagedName + at); err != nil {
			return err
		}
	} else if names, err := f.list(damagedName + "*Z"); err == nil && len(names) > 0 {
		at = strings.TrimPrefix(names[len(names)-1], damagedName)
	}
	if err := os.Remove(f.path(dbName + "-shm")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.sync(); err != nil {
		return err
	}
	return f.create(ctx, at, known)
}

func (f *File) finishSettingApart() error {
	logs, err := f.list(damagedName + "*-wal")
	if err != nil {
		return err
	}
	for _, wal := range logs {
		if name := strings.TrimSuffix(wal, "-wal"); !f.isThere(name) {
			if err := f.moveDB(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveDB moves the database, or an empty one where only the log was left.
func (f *File) moveDB(name string) error {
	err := os.Rename(f.path(dbName), f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(f.path(name), nil, 0o600)
	}
	return err
}

func (f *File) isThere(name string) bool {
	_, err := os.Lstat(f.path(name))
	return err == nil
}

// list returns the names of the files that match, the oldest first.
func (f *File) list(pattern string) ([]string, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if ok, err := filepath.Match(pattern, entry.Name()); err != nil || ok {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// carryAll brings what is in damaged files to the database.
func (f *File) carryAll(ctx context.Context) error {
	names, err := f.list(damagedName + "*Z")
	if err != nil || len(names) == 0 {
		return err
	}
	f.partial = false
	for _, name := range names {
		err := f.carry(ctx, strings.TrimPrefix(name, damagedName))
		if isFull(err) {
			f.partial = true
			f.log.Error(err, "There is no room to carry all events of a damaged file over; going on when those carried over are recorded", "file", f.path(name))
			break
		}
		if err != nil {
			return fmt.Errorf("carry over events of %s: %w", name, err)
		}
	}
	return f.count(ctx, f.db)
}

// carry brings over what is readable in the file that was set apart at a time.
// Where there is not enough room it has brought what it could.
func (f *File) carry(ctx context.Context, at string) error {
	src, err := openPages(f.path(damagedName + at))
	if err != nil {
		return err
	}
	defer src.close()
	c := carrier{at: at}
	var read int
	if _, err := f.db.ExecContext(ctx, "INSERT INTO carried (at) VALUES (?) ON CONFLICT DO NOTHING", at); err != nil {
		return err
	}
	if err := f.db.QueryRowContext(ctx, "SELECT read, missing FROM carried WHERE at = ?", at).Scan(&read, &c.missing); err != nil {
		return unreadable(err)
	}
	var chunk []found
	n, bytes := 0, 0
	flush := func() error {
		err := f.insert(ctx, &c, chunk, n)
		chunk, bytes = nil, 0
		return err
	}
	for r := range src.rows() {
		if n++; n <= read {
			continue
		}
		chunk = append(chunk, r)
		if bytes += len(r.payload); len(chunk) == 1000 || bytes > maxNextBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return f.finish(&c)
}

// carrier counts what comes of a damaged file.
type carrier struct {
	at             string
	carried, aside int
	missing        sql.NullInt64
}

// insert adds rows to the database, as many as there is room for.
func (f *File) insert(ctx context.Context, c *carrier, rows []found, read int) error {
	err := f.transact(ctx, f.db, mode{durable: true, reserve: true}, func(tx *sql.Tx) error { return c.insert(ctx, tx, rows, read) })
	if half := len(rows) / 2; isFull(err) && half > 0 {
		if err := f.insert(ctx, c, rows[:half], read-len(rows)+half); err != nil {
			return err
		}
		return f.insert(ctx, c, rows[half:], read)
	}
	return err
}

// insert adds rows where they are not there yet. read is how many rows of the
// file have been gone through with them.
func (c *carrier) insert(ctx context.Context, tx *sql.Tx, rows []found, read int) error {
	sum := *c
	for i := range rows {
		r := &rows[i]
		var n int
		var err error
		switch {
		case r.broken != nil:
			n, err = affected(tx.ExecContext(ctx, `INSERT INTO aside (event_id, payload, sha256, first_at, reason) SELECT ?1, ?2, ?3, ?4, ?5
				WHERE NOT EXISTS (SELECT 1 FROM waiting WHERE event_id = ?1) AND NOT EXISTS (SELECT 1 FROM rejected WHERE event_id = ?1)
				AND NOT EXISTS (SELECT 1 FROM aside WHERE event_id = ?1)`, r.id, r.payload, nonNil(r.sum), r.firstAt, r.broken.Error()))
			sum.aside += n
		case r.table == "aside":
			n, err = affected(tx.ExecContext(ctx, `INSERT INTO aside (event_id, payload, sha256, first_at, reason) SELECT ?1, ?2, ?3, ?4, ?5
				WHERE NOT EXISTS (SELECT 1 FROM aside WHERE event_id = ?1 AND payload = ?2)`, r.id, r.payload, nonNil(r.sum), r.firstAt, r.reason))
		case r.table == "rejected":
			n, err = affected(tx.ExecContext(ctx, "INSERT INTO rejected (event_id, payload, status, reason, first_at, last_at, sha256) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
				r.id, r.payload, r.status, r.reason, r.firstAt, r.lastAt, r.sum))
		default:
			// The place in the order is kept, unless a new event has it.
			n, err = affected(tx.ExecContext(ctx, `INSERT INTO waiting (seq, event_id, payload, sha256, first_at, attempts)
				VALUES (CASE WHEN EXISTS (SELECT 1 FROM waiting WHERE seq = ?1) THEN NULL ELSE ?1 END, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING`,
				r.seq, r.id, r.payload, r.sum, r.firstAt, r.attempts))
		}
		if err != nil {
			return err
		}
		sum.carried += n
		sum.missing.Int64 = max(0, sum.missing.Int64-int64(n))
	}
	if _, err := tx.ExecContext(ctx, "UPDATE carried SET read = ?, missing = ? WHERE at = ?", read, sum.missing, c.at); err != nil {
		return err
	}
	*c = sum
	return nil
}

// nonNil keeps an empty blob from becoming NULL.
func nonNil(b []byte) []byte { return append([]byte{}, b...) }

// finish deletes a file in which nothing is left for sure, and keeps any other.
func (f *File) finish(c *carrier) error {
	old, kept := f.path(damagedName+c.at), f.path(suspectName+c.at)
	if c.missing.Valid && c.missing.Int64 == 0 && c.aside == 0 {
		for _, suffix := range []string{"-wal", ""} {
			if err := os.Remove(old + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		f.log.Info("All events of the damaged database were carried over to a new one", "events", c.carried)
		return nil
	}
	for _, suffix := range []string{"-wal", ""} {
		if err := os.Rename(old+suffix, kept+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f.log.Error(nil, "The readable events of the damaged database were carried over to a new one; the file is kept for a person to look at and delete",
		"events", c.carried-c.aside, "unreadable", c.aside, "missing", c.missing.Int64, "file", kept)
	return nil
}
