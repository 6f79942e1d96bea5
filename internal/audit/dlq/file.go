// Package dlq keeps audit events that DataStorage could not or would not take.
package dlq

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/audit"
)

const (
	pageSize = 4096
	// minFileBytes has room for some hundred events.
	minFileBytes = 1 << 20
	// maxWALBytes has room for a transaction with all that the store holds in
	// memory, and for the index pages that so many events touch.
	maxWALBytes = 96 << 20
	// usualWALBytes is how far the log grows with transactions of the usual size.
	usualWALBytes = 4 << 20
	// keepOnDisk is what Put leaves free, for Next and Settle.
	keepOnDisk = 2 << 20
)

// File is a dead-letter queue in a directory of the local disk, owned by one
// process at a time. Times in it are Unix milliseconds. It is safe for use by
// several goroutines.
type File struct {
	log      logr.Logger
	dir      string
	maxBytes int64
	lock     *os.File

	mu    sync.Mutex // guards all below, and keeps the pragmas with their transaction
	db    *sql.DB    // nil while closed, and after a damage until there is a new file
	bad   error      // why events.db must not be used any more, until it is set apart
	depth audit.Depth
	pages int64 // of the database when it was opened
	// partial says that a damaged file holds more than there was room for.
	partial bool
	// rejectedAt has the IDs of what this process rejected, on a clock that nobody can set.
	rejectedAt map[string]time.Time
	recheck    time.Time // no rejected event is due before
}

var _ audit.DLQ = (*File)(nil)

// Open creates the directory where it is missing, takes its lock, and makes sure
// that the queue can be written. Errors name the flag.
//
// maxBytes, 1 MiB or more, bounds what the database, its write-ahead log and the
// log's index take on the disk together: 9/16 of it, at most 96 MiB, are kept
// for the log. Of the rest Put leaves an eighth to Next and Settle, which go on
// in a full queue. What is full already when Open is called with less keeps its
// size, and takes no more. A program that reads the database at the same time
// holds the log up for as long as it reads.
//
// A database that is damaged, or that failed to read or write, is replaced by a
// new one with all events of the old one that are readable. The old one is kept
// as events.db.suspect-TIME, beside the bound, for a person to look at and
// delete, unless it is sure that nothing is left in it. While there is no room
// for all that is readable, it is events.db.damaged-TIME.
func Open(dir string, maxBytes int64, log logr.Logger) (*File, error) {
	if maxBytes < minFileBytes {
		return nil, fmt.Errorf("--dlq-max-bytes is %d; allowed is %d (1 MiB) or more", maxBytes, minFileBytes)
	}
	f := &File{
		log: log.WithName("audit-dlq"), dir: dir, maxBytes: maxBytes,
		rejectedAt: make(map[string]time.Time),
	}
	if err := f.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open dead-letter queue in --dlq-path %q: %w", dir, err), f.Close())
	}
	return f, nil
}

func (f *File) open() error {
	if f.dir == "" {
		return errors.New("a directory on a local disk is required")
	}
	// The events tell who was told what: nobody else's business.
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(f.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
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
	return f.attach(context.Background())
}

// Close lets go of the directory. The queue cannot be used afterwards.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.detach()
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
	}
	f.lock = nil
	return err
}

func (f *File) detach() error {
	if f.db == nil {
		return nil
	}
	err := f.db.Close()
	f.db = nil
	return err
}

func (f *File) path(name string) string { return filepath.Join(f.dir, name) }

func (f *File) walBytes() int64 { return min(f.maxBytes/16*9, maxWALBytes) }

func (f *File) maxPages() int64 { return (f.maxBytes - f.walBytes()) / pageSize }

// reserve is what is kept from Put.
func (f *File) reserve() int64 { return f.maxPages() / 8 }

// use calls fn with a database that can be used, and replaces the database when
// fn finds that it cannot be trusted any more.
func (f *File) use(ctx context.Context, fn func(*sql.DB) error) error {
	if f.lock == nil {
		return errors.New("the queue is closed")
	}
	// What is begun here is not left half done for a caller's impatience.
	mending := context.WithoutCancel(ctx)
	if f.db == nil {
		if err := f.attach(mending); err != nil {
			return fmt.Errorf("replace damaged database: %w", err)
		}
	}
	err := fn(f.db)
	if !isDamage(err) {
		return err
	}
	f.bad = err
	if broken := f.attach(mending); broken != nil {
		return errors.Join(err, fmt.Errorf("replace damaged database: %w", broken))
	}
	return err
}

// mode is how a transaction writes.
type mode struct {
	// durable transactions survive the death of the machine, others only that of
	// the process: enough for a removal, since an event that comes back is only
	// sent once more.
	durable bool
	// reserve lets the transaction use the room that is kept from Put.
	reserve bool
}

// write runs fn in a transaction, and perhaps in another one where there was no
// room for the first.
func (f *File) write(ctx context.Context, m mode, fn func(*sql.Tx) error) error {
	return f.use(ctx, func(db *sql.DB) error {
		err := f.transact(ctx, db, m, fn)
		if !isFull(err) || !m.reserve {
			return err
		}
		// The log may have taken what room there was on the disk.
		if err := checkpoint(ctx, db); err != nil {
			return err
		}
		return f.transact(ctx, db, m, fn)
	})
}

func (f *File) transact(ctx context.Context, db *sql.DB, m mode, fn func(*sql.Tx) error) error {
	level, pages := "NORMAL", f.maxPages()
	if m.durable {
		level = "FULL"
	}
	if m.reserve {
		pages = max(pages, f.pages+f.reserve())
	} else {
		pages -= f.reserve()
	}
	pragmas := fmt.Sprintf("PRAGMA synchronous = %s; PRAGMA max_page_count = %d", level, min(pages, 1<<32-2))
	if _, err := db.ExecContext(ctx, pragmas); err != nil {
		return fmt.Errorf("prepare transaction: %w", err)
	}
	if err := f.bound(ctx, db); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := fn(tx); err != nil {
		// SQLite has rolled back by itself where this fails.
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// bound moves what is in the write-ahead log to the database, and makes the log
// empty. SQLite does that by itself too, but keeps its errors to itself, and goes
// on to write over what is in the log: a process that dies then leaves what
// cannot be told from damage.
func (f *File) bound(ctx context.Context, db *sql.DB) error {
	wal, err := os.Stat(f.path(walName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || wal.Size() == 0 {
		return err
	}
	if wal.Size() <= min(f.walBytes()/9, usualWALBytes) {
		if tight, err := f.tight(0); err != nil || !tight {
			return err
		}
	}
	// A full disk stops a transaction only where that needs more of it.
	if err := checkpoint(ctx, db); !isFull(err) {
		return err
	}
	return nil
}

// tight reports whether the disk has too little room for transactions that write
// so many bytes, and for the log to be moved to the database after them.
func (f *File) tight(bytes int64) (bool, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(f.dir, &disk); err != nil {
		return false, fmt.Errorf("look for room on disk: %w", err)
	}
	needed := keepOnDisk + 4*bytes // They are once in the log and once in the database, and fill their pages by half.
	if wal, err := os.Stat(f.path(walName)); err == nil {
		needed += wal.Size()
	}
	return float64(disk.Bavail)*float64(disk.Bsize) < float64(needed), nil
}

func checkpoint(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return fmt.Errorf("empty write-ahead log: %w", err)
	}
	return nil
}
