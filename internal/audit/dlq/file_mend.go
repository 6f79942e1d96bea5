package dlq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A database and its log are in a directory, which is renamed as one.
const (
	dbName     = "events.db"
	currentDir = "current"
	// buildingDir has a database that is being made, readyDir one that is to take
	// the place of the current.
	buildingDir = "building"
	readyDir    = "ready"
	suspectDir  = "suspect-"
)

// damageError says that a file is not what was written to it.
type damageError struct{ error }

func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return sqlite3.SQLITE_OK
}

// isDamage reports whether a database can be trusted no longer. After a failed
// fsync that includes what a second one would claim to have written.
func isDamage(err error) bool {
	if _, ok := errors.AsType[damageError](err); ok {
		return true
	}
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_IOERR && !isOfLogIndex(err) || c == sqlite3.SQLITE_CORRUPT || c == sqlite3.SQLITE_NOTADB
}

func isFull(err error) bool { return code(err)&0xff == sqlite3.SQLITE_FULL }

// isOfLogIndex is for errors of a file that is not kept from one process to the
// next, and the first that is written.
func isOfLogIndex(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMLOCK, sqlite3.SQLITE_IOERR_SHMMAP:
		return true
	}
	return false
}

// isDamageAtOpen takes more for damage: nobody but this program writes the SQL,
// so that what SQLite cannot make sense of is the file.
func isDamageAtOpen(err error) bool {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG:
		return true
	}
	return isDamage(err)
}

// usable attaches the database again where a damaged one could not be replaced.
func (f *File) usable(ctx context.Context) error {
	if f.lock == nil {
		return errors.New("the queue is closed")
	}
	if f.db != nil {
		return nil
	}
	// What is begun here is not left half done for a caller's impatience.
	return f.attach(context.WithoutCancel(ctx))
}

// mend replaces the database where the error shows that it is damaged, and
// returns the error with what else went wrong.
func (f *File) mend(ctx context.Context, err error) error {
	if !isDamage(err) || f.db == nil {
		return err
	}
	return errors.Join(err, f.replace(context.WithoutCancel(ctx), err))
}

// attach opens the database, makes one where there is none, and replaces one
// that is damaged.
func (f *File) attach(ctx context.Context) error {
	err := f.swap()
	if err != nil {
		return err
	}
	if _, err = os.Lstat(f.path(currentDir)); errors.Is(err, fs.ErrNotExist) {
		err = f.build(ctx)
	}
	if err == nil {
		err = f.connect(ctx)
	}
	if isDamageAtOpen(err) {
		return f.replace(ctx, err)
	}
	if err != nil {
		return errors.Join(explainOpen(err), f.detach())
	}
	return nil
}

func explainOpen(err error) error {
	if isFull(err) || isOfLogIndex(err) {
		return fmt.Errorf("the disk cannot be written; see whether it is full or read-only: %w", err)
	}
	return err
}

func (f *File) path(name string) string { return filepath.Join(f.dir, name) }

func (f *File) detach() error {
	if f.db == nil {
		return nil
	}
	err := f.db.Close()
	f.db = nil
	return err
}

// connect opens the database, checks it and reads which events it has.
func (f *File) connect(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(f.path(currentDir), dbName)); errors.Is(err, fs.ErrNotExist) {
		return damageError{err}
	}
	var err error
	if f.db, err = openDB(f.path(currentDir)); err != nil {
		return err
	}
	var version int
	if err := f.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > schemaVersion {
		return fmt.Errorf("the schema version is %d and this program knows only %d; use the program that wrote it or another directory", version, schemaVersion)
	}
	var verdict string
	if err := f.db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	if verdict != "ok" {
		return damageError{errors.New(strings.TrimSpace(verdict))}
	}
	if err := f.load(ctx); err != nil {
		return err
	}
	f.pages = 0
	if err := f.checkpoint(ctx, "TRUNCATE"); !isFull(err) {
		return err
	}
	return nil
}

// replace puts a new database, with all rows that can be read, in the place of
// one that is damaged.
func (f *File) replace(ctx context.Context, cause error) error {
	before := f.aside
	err := f.build(ctx)
	if err == nil {
		err = f.connect(ctx)
	}
	if err != nil {
		// Half a new database is of no use, and may have taken the last of the disk.
		return errors.Join(fmt.Errorf("replace damaged database: %w", explainOpen(err)), f.detach(), os.RemoveAll(f.path(buildingDir)))
	}
	f.log.Error(cause, "The dead-letter queue's database was damaged; a new one has what could be read, and the old one is kept in suspect-TIME for a person to look at and delete",
		"waiting", len(f.letters), "unreadable", f.aside-before)
	return nil
}

// build makes a database with the rows of the one that is open, if any, and
// gives it the place of that.
func (f *File) build(ctx context.Context) error {
	building := f.path(buildingDir)
	if err := os.RemoveAll(building); err != nil {
		return err
	}
	if err := os.Mkdir(building, 0o700); err != nil {
		return err
	}
	db, err := openDB(building)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf("BEGIN; %s; PRAGMA user_version = %d; COMMIT; PRAGMA journal_mode = DELETE", schema, schemaVersion))
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	if f.db != nil {
		if err := f.carry(ctx); err != nil {
			return fmt.Errorf("copy rows: %w", err)
		}
		// Closing writes to the damaged files once more. Whether it can is of no interest.
		_ = f.detach()
	}
	for _, path := range []string{filepath.Join(building, dbName), building} {
		if err := syncPath(path); err != nil {
			return err
		}
	}
	if err := os.Rename(building, f.path(readyDir)); err != nil {
		return err
	}
	if err := syncPath(f.dir); err != nil {
		return err
	}
	return f.swap()
}

// swap gives a database that is ready its place, here or where another process
// was cut off.
func (f *File) swap() error {
	if _, err := os.Lstat(f.path(readyDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	suspect := suspectDir + time.Now().UTC().Format("20060102T150405.000000000Z")
	for _, move := range [][2]string{{currentDir, suspect}, {readyDir, currentDir}} {
		if err := os.Rename(f.path(move[0]), f.path(move[1])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(f.dir)
}

// syncPath makes a file, or the names in a directory, durable.
func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// carry copies the rows that SQLite can read of the open database to the one
// that is being built. An error says that the copy could not be written: what
// can be read must not be left behind for that.
func (f *File) carry(ctx context.Context) error {
	path, err := filepath.Abs(filepath.Join(f.path(buildingDir), dbName))
	if err != nil {
		return err
	}
	if _, err = f.db.ExecContext(ctx, "ATTACH ? AS fresh", path); err == nil {
		_, err = f.db.ExecContext(ctx, "PRAGMA fresh.journal_mode = MEMORY; PRAGMA fresh.synchronous = OFF")
	}
	if isIllegible(err) {
		f.log.Error(err, "Nothing can be read of the dead-letter queue's damaged database")
		return nil
	}
	if err != nil {
		return err
	}
	for table, columns := range map[string]string{"rejected": "event_id, at, status, reason, payload, crc32c", "batches": "seq, at, events, payload, crc32c"} {
		ids, err := f.rowids(ctx, table)
		if err != nil {
			return err
		}
		for _, id := range ids {
			_, err := f.db.ExecContext(ctx, fmt.Sprintf("INSERT INTO fresh.%[1]s (%[2]s) SELECT %[2]s FROM main.%[1]s WHERE rowid = ?", table, columns), id)
			// What cannot be read stays in the damaged database.
			if err != nil && !isIllegible(err) {
				return err
			}
		}
	}
	return nil
}

// isIllegible reports whether an error is of what is copied, and not of where
// it is copied to.
func isIllegible(err error) bool {
	return isDamageAtOpen(err) && code(err) != sqlite3.SQLITE_IOERR_WRITE
}

// rowids returns those from both ends of a table to where it is damaged.
func (f *File) rowids(ctx context.Context, table string) ([]int64, error) {
	var ids []int64
	for _, order := range []string{"ASC", "DESC"} {
		err := f.each(ctx, "SELECT rowid FROM main."+table+" ORDER BY rowid "+order, func(s scanner) error {
			var id int64
			err := s.Scan(&id)
			ids = append(ids, id)
			return err
		})
		if err == nil {
			break
		}
		if !isIllegible(err) {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
