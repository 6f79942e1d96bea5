// Package dlq keeps audit events that DataStorage could not or would not take.
package dlq

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

const (
	// minFileBytes has room for some hundred events.
	minFileBytes = 1 << 20
	// A row of batches takes so many events or bytes, whichever comes first: it
	// is decoded as a whole, and goes as a whole.
	maxRowEvents = 100
	maxRowBytes  = 256 << 10
	// maxNextBytes keeps what is read at a time below what one request may carry.
	maxNextBytes = 4 << 20
	// maxReason bounds what a rejection adds to a queue that is full already.
	maxReason = 1024
)

// File is a dead-letter queue in a directory of the local disk, owned by one
// process at a time. It is safe for use by several goroutines.
//
// Which events wait it knows in memory, at some 200 bytes for each. A row of its
// database has up to 100 events of one Put, and goes when the last of them is
// settled: after a restart the others of the row are offered once more.
type File struct {
	log      logr.Logger
	dir      string
	maxBytes int64
	lock     *os.File

	mu       sync.Mutex // guards all below
	db       *sql.DB    // nil while closed, and where a damaged one could not be replaced yet
	pages    int64      // the max_page_count that is set
	wal      int64      // how large the write-ahead log is at most
	finished removals
	index
	aside int // events that cannot be read, or that a damaged database had
	// unreadable are the rows of them, 0 where it is one of rejected.
	unreadable map[int64]bool
}

// removals are rows that nobody needs any more. The next transaction removes
// them; a restart before only offers their events once more.
type removals struct {
	batches  []int64
	rejected []uuid.UUID
}

func (r *removals) count() int { return len(r.batches) + len(r.rejected) }

var _ audit.DLQ = (*File)(nil)

// Open creates the directory where it is missing, takes its lock, and makes sure
// that the queue can be written. Errors name the flag.
//
// maxBytes, 1 MiB or more, bounds what the database and its write-ahead log take
// on the disk together: half of it, at most 40 MiB, is for the log. Of the rest
// Put leaves a quarter, at most 4 MiB, to rejections, which a full queue goes on
// to take. A program that reads the database at the same time makes the log grow
// for as long as it reads.
//
// A database that is damaged, or that failed to read or write, is replaced by a
// new one with all rows of the old one that can be read. The old one is kept in
// the directory suspect-TIME, beside the bound, for a person to look at and delete.
func Open(dir string, maxBytes int64, log logr.Logger) (*File, error) {
	if maxBytes < minFileBytes {
		return nil, fmt.Errorf("--dlq-max-bytes is %d; allowed is %d (1 MiB) or more", maxBytes, minFileBytes)
	}
	f := &File{log: log.WithName("audit-dlq"), dir: dir, maxBytes: maxBytes}
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
	var err error
	if f.db != nil && f.finished.count() > 0 {
		err = f.removeFinished(context.Background())
	}
	err = errors.Join(err, f.detach())
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
	}
	f.lock = nil
	return err
}

// Put implements audit.DLQ. Where the events do not all fit, none is added.
func (f *File) Put(ctx context.Context, events []audit.Event) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	added, err := f.put(ctx, events, time.Now())
	if err != nil {
		return 0, fmt.Errorf("put %d events: %w", len(events), err)
	}
	return added, nil
}

func (f *File) put(ctx context.Context, events []audit.Event, now time.Time) (int, error) {
	if err := f.usable(ctx); err != nil {
		return 0, err
	}
	rows, added, size := f.pack(events, now)
	if added == 0 {
		return 0, nil
	}
	if int64(size) > f.maxWAL()/10*9 {
		return 0, fmt.Errorf("%d bytes at a time are more than --dlq-max-bytes %d has room for", size, f.maxBytes)
	}
	err := f.roomOnDisk(ctx, int64(size))
	if err == nil {
		err = f.write(ctx, size, f.maxPages()-min(f.maxPages()/4, maxNextBytes/pageSize), func(tx *sql.Tx) error { return insert(ctx, tx, rows, now) })
	}
	if err != nil {
		return 0, f.mend(ctx, err)
	}
	for _, r := range rows {
		f.add(&batch{seq: r.seq, at: now}, r.ids, 0)
	}
	return added, nil
}

// row is one of the table batches: a JSON array of events.
type row struct {
	seq     int64
	ids     []uuid.UUID
	payload []byte
}

// pack encodes the events that do not wait yet. Rejected ones it lets wait again.
func (f *File) pack(events []audit.Event, now time.Time) (rows []row, added, size int) {
	known := make(map[uuid.UUID]bool, len(events))
	for i := range events {
		id := events[i].EventID
		if f.letters[id] != nil || known[id] || f.wake(id, now) {
			continue
		}
		known[id] = true
		if n := len(rows) - 1; n < 0 || len(rows[n].ids) == maxRowEvents || int64(len(rows[n].payload)) >= min(maxRowBytes, f.maxBytes/32) {
			rows = append(rows, row{payload: make([]byte, 0, min(len(events)-i, maxRowEvents)*1024)})
		}
		r := &rows[len(rows)-1]
		r.ids = append(r.ids, id)
		r.payload = events[i].Append(append(r.payload, ','))
	}
	for i := range rows {
		r := &rows[i]
		r.payload[0], r.payload = '[', append(r.payload, ']')
		added += len(r.ids)
		size += len(r.payload)
	}
	return rows, added, size
}

// Next implements audit.DLQ. It writes nothing, so that a full disk does not
// stand in its way.
func (f *File) Next(ctx context.Context, limit int) ([]audit.Event, audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.usable(ctx)
	var events []audit.Event
	if err == nil {
		f.wakeDue(time.Now())
		events, err = f.next(ctx, limit)
	}
	if err != nil {
		return nil, f.depth(), fmt.Errorf("read next events: %w", f.mend(ctx, err))
	}
	return events, f.depth(), nil
}

func (f *File) next(ctx context.Context, limit int) ([]audit.Event, error) {
	var events []audit.Event
	var taken []*letter
	defer func() { f.giveBack(taken) }()
	var from *batch
	var held map[uuid.UUID]audit.Event // by the row of from
	for bytes := 0; len(events) < limit && len(f.turns) > 0; {
		l := f.turns[0]
		if l.batch != from || l.batch.seq == 0 {
			var err error
			if held, err = f.read(ctx, l); isUnreadable(err) {
				f.setAside(l, err)
				from = nil
				continue
			} else if err != nil {
				return nil, err
			}
			from = l.batch
		}
		e, ok := held[l.id]
		if !ok {
			f.setAside(l, unreadableError{errors.New("the row does not hold the event")})
			continue
		}
		if bytes += e.Size(); bytes > maxNextBytes && len(events) > 0 {
			break
		}
		events = append(events, e)
		taken = append(taken, f.take())
	}
	return events, nil
}

// setAside leaves a row to a person. Events of it that were settled are counted
// again after a restart: nobody knows any more which they were.
func (f *File) setAside(l *letter, why error) {
	n := f.forgetBatch(l)
	f.aside += n
	f.unreadable[l.batch.seq] = true
	f.log.Error(why, "Setting unreadable dead letters aside", "row", l.batch.seq, "eventID", l.id, "events", n)
}

// Settle implements audit.DLQ. A reason longer than a KiB is cut. Where there are
// no rejections it does not fail for a disk that cannot be written.
func (f *File) Settle(ctx context.Context, recorded []uuid.UUID, rejected []audit.Rejection) (audit.Depth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.usable(ctx)
	if err == nil || f.lock != nil && len(rejected) == 0 {
		err = f.settle(ctx, recorded, rejected)
	}
	if err != nil {
		return f.depth(), fmt.Errorf("settle %d events: %w", len(recorded)+len(rejected), f.mend(ctx, err))
	}
	return f.depth(), nil
}

func (f *File) settle(ctx context.Context, recorded []uuid.UUID, rejected []audit.Rejection) error {
	if len(rejected) > 0 {
		if err := f.reject(ctx, rejected); err != nil {
			return err
		}
	}
	before := f.finished.count()
	for _, id := range recorded {
		f.finish(id)
	}
	var err error
	if f.db != nil && f.finished.count() > 0 {
		err = f.mend(ctx, f.removeFinished(ctx))
	}
	if err != nil && before == 0 {
		f.log.Error(err, "Removing settled dead letters failed; they are removed later")
	}
	if f.db != nil && len(f.letters)+len(f.resting)+f.aside+f.finished.count() == 0 {
		if err := f.mend(ctx, f.shrink(ctx)); err != nil {
			f.log.Info("Giving back the room of an empty dead-letter queue failed", "cause", err.Error())
		}
	}
	return nil
}

// finish lets an event wait no more.
func (f *File) finish(id uuid.UUID) {
	switch b := f.remove(id); {
	case b == nil:
	case b.seq == 0:
		f.finished.rejected = append(f.finished.rejected, id)
	case b.left == 0:
		f.finished.batches = append(f.finished.batches, b.seq)
	}
}

func (f *File) removeFinished(ctx context.Context) error {
	return f.write(ctx, 0, f.maxPages(), func(*sql.Tx) error { return nil })
}

// reject makes rejections durable.
func (f *File) reject(ctx context.Context, rejected []audit.Rejection) error {
	size := 0
	for i := range rejected {
		size += rejected[i].Event.Size()
	}
	err := f.write(ctx, size, f.maxPages(), func(tx *sql.Tx) error {
		// Together with the rejections, so that a full queue has room for them.
		if err := removeBatches(ctx, tx, f.endWith(rejected)); err != nil {
			return err
		}
		for i := range rejected {
			r := &rejected[i]
			reason := r.Reason
			if len(reason) > maxReason {
				reason = strings.ToValidUTF8(reason[:maxReason], "")
			}
			payload := r.Event.Append(nil)
			_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO rejected (event_id, at, status, reason, payload, crc32c) VALUES (?, ?, ?, ?, ?, ?)",
				r.Event.EventID.String(), time.Now().UnixMilli(), r.Status, reason, string(payload), checksum(payload, r.Status, reason))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	until := time.Now().Add(audit.RejectedRecheck)
	for i := range rejected {
		f.remove(rejected[i].Event.EventID)
		f.restUntil(rejected[i].Event.EventID, until)
	}
	return nil
}

// endWith returns the rows of which no event waits but the rejected ones.
func (f *File) endWith(rejected []audit.Rejection) (rows []int64) {
	leaving, seen := map[*batch]int{}, map[uuid.UUID]bool{}
	for i := range rejected {
		id := rejected[i].Event.EventID
		l := f.letters[id]
		if l == nil || l.batch.seq == 0 || seen[id] {
			continue
		}
		seen[id] = true
		if leaving[l.batch]++; leaving[l.batch] == l.batch.left {
			rows = append(rows, l.batch.seq)
		}
	}
	return rows
}

func (f *File) depth() audit.Depth {
	return audit.Depth{Waiting: len(f.letters), Rejected: len(f.resting), Aside: f.aside, Oldest: f.oldest()}
}
