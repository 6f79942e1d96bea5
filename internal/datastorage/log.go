package datastorage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/ledger"
)

const (
	// maxCommit is how many events one transaction takes at the most, a request
	// of maxBatchEvents besides. Larger ones are no faster.
	maxCommit = 2000
	// milestoneEvery is how far apart the checkpoints are at least that are kept.
	milestoneEvery = time.Second
	// heartbeatEvery is how old the newest checkpoint gets: that of a log to which
	// nothing is added shows that nothing was.
	heartbeatEvery = 10 * time.Minute
)

// Log is a transparency log of audit events in a Store. One goroutine commits
// what all requests bring: while a transaction runs, the next one gathers. Made
// by OpenLog; all methods are safe for use by several goroutines.
type Log struct {
	Reader
	writer Writer
	key    *ledger.Key
	log    logr.Logger
	now    func() time.Time

	requests chan *request
	changes  chan *request // of which each is a transaction of its own
	ended    chan struct{}
	stop     context.CancelFunc

	// What follows belongs to the committing goroutine.
	tree      *ledger.Tree // nil before the first commit, and where it is not known
	milestone time.Time
}

// request is one call of Append, or of change.
type request struct {
	records []Record
	// make, where it is set, makes the records of what the transaction sees, and
	// adds what is to be changed besides.
	make      func(ctx context.Context, known Known, add *Addition) ([]Record, error)
	heartbeat bool   // a new checkpoint is wanted in any case
	done      func() // called when the records are stored or never will be; may be nil
	answered  chan struct{}
	outcome   Outcome // set, like err, before answered is closed
	err       error
}

// Outcome is what has become of the records of a call of Append.
type Outcome struct {
	Appended   []Appended
	Checkpoint string // signed, of a log that has them
}

// ErrTampered marks a log that is not what its own checkpoint says. Nothing is
// added to it, since that would vouch for what was changed.
var ErrTampered = errors.New("the log is not what its checkpoint says; datastorage verify finds out what was changed")

// OpenLog takes a log up, or begins it where the store is new. It returns an
// error that is ErrConfig where the log has another key, and ErrTampered. What
// goes wrong later goes to the logger that ctx has.
func OpenLog(ctx context.Context, store Store, key *ledger.Key) (*Log, error) {
	l := &Log{Reader: store, writer: store, key: key, log: logr.FromContextOrDiscard(ctx), now: time.Now, requests: make(chan *request, maxWrites), changes: make(chan *request), ended: make(chan struct{})}
	first := &request{heartbeat: true, answered: make(chan struct{})}
	l.commit(ctx, []*request{first})
	if first.err != nil {
		return nil, fmt.Errorf("open log: %w", first.err)
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.run(life)
	return l, nil
}

// Close ends the goroutine after the commit that it is at. No call of Append may
// be under way or follow.
func (l *Log) Close() {
	l.stop()
	<-l.ended
}

// CheckWrite is as Writer says.
func (l *Log) CheckWrite(ctx context.Context) error { return l.writer.CheckWrite(ctx) }

// Append stores all the records or none of them, durably, and answers in their
// order. It returns a *ConflictError where an ID is known with other content.
func (l *Log) Append(ctx context.Context, records []Record) (Outcome, error) {
	return l.append(ctx, records, nil)
}

// append is as Append. It calls done when the records are stored or never will be,
// which may be long after ctx has ended and it has returned.
func (l *Log) append(ctx context.Context, records []Record, done func()) (Outcome, error) {
	return l.ask(ctx, l.requests, &request{records: records, done: done})
}

// change stores what is made within the transaction.
func (l *Log) change(ctx context.Context, make func(context.Context, Known, *Addition) ([]Record, error)) error {
	_, err := l.ask(ctx, l.changes, &request{make: make})
	return err
}

func (l *Log) ask(ctx context.Context, queue chan<- *request, r *request) (Outcome, error) {
	if ctx.Err() != nil {
		r.end()
		return Outcome{}, context.Cause(ctx)
	}
	r.answered = make(chan struct{})
	select {
	case queue <- r:
	case <-ctx.Done():
		r.end()
		return Outcome{}, context.Cause(ctx)
	}
	select {
	case <-r.answered:
		return r.outcome, r.err
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx)
	}
}

// salt makes events that are guessed of no use to whoever has their hashes. It
// follows from the signing key and the ID, so that an event which is sent again
// is the same event.
func (l *Log) salt(eventID uuid.UUID) string {
	salt := l.key.Salt(eventID)
	return hex.EncodeToString(salt[:])
}

func (l *Log) run(ctx context.Context) {
	defer close(l.ended)
	heartbeat := time.NewTimer(heartbeatEvery)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heartbeat.C:
			beat := &request{heartbeat: true, answered: make(chan struct{})}
			if l.commit(ctx, []*request{beat}); beat.err != nil {
				l.log.Error(beat.err, "Signing a checkpoint of the idle log failed")
			}
		case r := <-l.requests:
			l.commit(ctx, l.gather(r))
		case r := <-l.changes:
			l.commit(ctx, []*request{r})
		}
		heartbeat.Reset(heartbeatEvery)
	}
}

// gather returns what has queued while the last commit ran.
func (l *Log) gather(first *request) []*request {
	batch, events := []*request{first}, len(first.records)
	for events < maxCommit {
		select {
		case r := <-l.requests:
			batch, events = append(batch, r), events+len(r.records)
		default:
			return batch
		}
	}
	return batch
}

// commit stores what the requests bring and answers them.
func (l *Log) commit(ctx context.Context, batch []*request) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var ids []uuid.UUID
	for _, r := range batch {
		for i := range r.records {
			ids = append(ids, r.records[i].Event.EventID)
		}
	}
	var tree *ledger.Tree
	now := l.now().UTC()
	err := l.writer.Append(ctx, ids, func(known Known) (addition Addition, err error) {
		tree, addition, err = l.plan(ctx, batch, known, now)
		return addition, err
	})
	l.tree = tree
	if err != nil {
		l.tree = nil // What the database holds is seen at the next commit.
	}
	for _, r := range batch {
		r.end()
		if r.err == nil {
			r.err = err
		}
		close(r.answered)
	}
}

func (r *request) end() {
	if r.done != nil {
		r.done()
	}
}

// plan places the records of all requests in the log, and sets what each is to
// be answered.
func (l *Log) plan(ctx context.Context, batch []*request, known Known, now time.Time) (*ledger.Tree, Addition, error) {
	add := Addition{RecordedAt: now.Truncate(time.Microsecond)}
	tree, err := l.catchUp(ctx, known)
	if err != nil {
		return nil, add, err
	}
	heartbeat := known.Head.Verifier == ""
	for _, r := range batch {
		if r.make != nil {
			if r.records, err = r.make(ctx, known, &add); err != nil {
				return nil, add, err
			}
		}
		var fresh []int
		r.outcome.Appended, fresh, r.err = place(r.records, known.Stored, tree.Size())
		if conflict, ok := errors.AsType[*ConflictError](r.err); ok {
			for _, c := range conflict.Conflicts {
				add.Conflicts = append(add.Conflicts, r.records[c.Index])
			}
		}
		for _, i := range fresh {
			known.Stored[r.records[i].Event.EventID] = Placed{tree.Size(), r.records[i].LeafHash}
			add.Records = append(add.Records, r.records[i])
			add.Tiles = append(add.Tiles, tree.Append(r.records[i].LeafHash)...)
		}
		heartbeat = heartbeat || r.heartbeat
	}
	head := known.Head
	if len(add.Records) > 0 || heartbeat {
		head = Head{Size: tree.Size(), Verifier: l.key.Verifier()}
		if head.Checkpoint, err = l.key.Sign(ledger.Checkpoint{Size: head.Size, Root: tree.Root(), Time: now.Truncate(time.Millisecond)}); err != nil {
			return nil, add, err
		}
		add.Head = head
		if add.Milestone = heartbeat || now.Sub(l.milestone).Abs() >= milestoneEvery; add.Milestone {
			l.milestone = now
		}
	}
	for _, r := range batch {
		r.outcome.Checkpoint = head.Checkpoint
	}
	return tree, add, nil
}

// catchUp returns a tree of all that the log holds, which may grow without l's
// growing.
func (l *Log) catchUp(ctx context.Context, known Known) (*ledger.Tree, error) {
	if known.Head.Verifier != "" && known.Head.Verifier != l.key.Verifier() {
		return nil, fmt.Errorf("%w: its log was begun with another signing key than that of --signing-key; the public key of the one it needs is %s",
			ErrConfig, known.Head.Verifier)
	}
	size := known.Head.Size
	if l.tree != nil && l.tree.Size() == size {
		return l.tree.Clone(), nil
	}
	var tree *ledger.Tree
	var err error
	if l.tree != nil && l.tree.Size() < size && size-l.tree.Size() <= ledger.TileWidth {
		// Another replica has written.
		tree = l.tree.Clone()
		err = grow(ctx, tree, known.Tx, size)
	} else {
		tree, err = restore(ctx, known.Tx, size)
	}
	if err != nil || known.Head.Checkpoint == "" {
		return tree, err
	}
	c, err := ledger.Verify(known.Head.Checkpoint, l.key.Verifier())
	if err != nil || c.Size != size || c.Root != tree.Root() {
		return nil, fmt.Errorf("%w: its head says %d events with the root %s, and its hashes make %s", ErrTampered, c.Size, c.Root, tree.Root())
	}
	return tree, nil
}

func grow(ctx context.Context, tree *ledger.Tree, hashes Hashes, size int64) error {
	leaves, err := readRoots(ctx, hashes, 0, tree.Size(), size)
	for _, leaf := range leaves {
		tree.Append(leaf)
	}
	return err
}

// restore makes the tree of a log of so many events from the tiles at its edge.
func restore(ctx context.Context, hashes Hashes, size int64) (*ledger.Tree, error) {
	var open [][]ledger.Hash
	for width := size; width > 0; width /= ledger.TileWidth {
		roots, err := readRoots(ctx, hashes, len(open), width-width%ledger.TileWidth, width)
		if err != nil {
			return nil, err
		}
		open = append(open, roots)
	}
	return ledger.Restore(size, open)
}

// readRoots returns the hashes that a tile of a level has: those of leaves, or of
// full tiles of the level below.
func readRoots(ctx context.Context, hashes Hashes, level int, from, to int64) ([]ledger.Hash, error) {
	rows, err := readHashes(ctx, hashes, level-1, from, to)
	if err != nil {
		return nil, err
	}
	roots := make([]ledger.Hash, len(rows))
	for i, row := range rows {
		if level == 0 {
			copy(roots[i][:], row.Data)
			continue
		}
		tile, err := ledger.ParseTile(level-1, row.Index, row.Data)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTampered, err)
		}
		roots[i] = ledger.TileRoot(tile.Hashes)
	}
	return roots, nil
}

func readHashes(ctx context.Context, hashes Hashes, level int, from, to int64) ([]HashRow, error) {
	rows, err := hashes.Hashes(ctx, level, from, to)
	if err != nil {
		return nil, fmt.Errorf("read hashes: %w", err)
	}
	for i := range to - from {
		if i >= int64(len(rows)) || rows[i].Index != from+i {
			if level == Leaves {
				return nil, fmt.Errorf("%w: the event with log index %d is missing", ErrTampered, from+i)
			}
			return nil, fmt.Errorf("%w: tile %d of level %d is missing", ErrTampered, from+i, level)
		}
	}
	return rows, nil
}
