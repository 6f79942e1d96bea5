// Package datastorage keeps audit events and serves them over HTTP: the API, the
// rules that an event must meet before it is stored, and the server's lifecycle.
// The databases are in the packages sqlite and postgres.
package datastorage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
)

// ErrConfig marks an error of opening a database that waiting cannot heal, such
// as a malformed URL or a schema that is newer than the program.
var ErrConfig = errors.New("database refused")

// Record is one event on its way into the log, made by NewRecord. Body is the
// event as canonical JSON, the bytes that are stored; Event is what the columns
// are filled from. LeafHash is that of Body. RetentionDays is how long the body is
// kept: 0 as the policy says, Forever for good.
type Record struct {
	Event         audit.Event
	Body          []byte
	LeafHash      ledger.Hash
	RetentionDays int64
}

// Forever is the RetentionDays of what never expires.
const Forever = -1

// ExpiresAt is when the body of a record may go that is recorded at a time, and
// whether it says so itself. A zero time is never.
func (r *Record) ExpiresAt(recordedAt time.Time) (time.Time, bool) {
	if r.RetentionDays > 0 {
		return retainedSince(&r.Event, recordedAt).AddDate(0, 0, int(r.RetentionDays)), true
	}
	return time.Time{}, r.RetentionDays == Forever
}

// NewRecord returns the record of an event whose canonical JSON is body.
func NewRecord(event audit.Event, body []byte) Record {
	return Record{Event: event, Body: body, LeafHash: ledger.LeafHash(body)}
}

// Placed says where a stored event is in the log and what was stored.
type Placed struct {
	LogIndex int64
	LeafHash ledger.Hash
}

// Appended is the outcome for one record of a batch. Duplicate means that the
// same event was in the log, or earlier in the batch, and keeps its index.
type Appended struct {
	LogIndex  int64
	Duplicate bool
}

// Stored is an event as it is read back. Times have microseconds. Columns has what
// FilterColumns name and the event's time, which is all that remains where Body is
// nil because it has expired.
type Stored struct {
	Placed
	RecordedAt time.Time
	Columns    audit.Event
	Body       []byte
}

// Store is a database that holds a log of audit events. All methods may be
// called at any time from any goroutine until it is closed.
type Store interface {
	Writer
	Reader
}

// Writer is the part of a Store that changes it.
type Writer interface {
	// Append calls plan in a transaction that no other of any process runs beside,
	// with what the log holds of the ids, and stores durably all that plan returns
	// or none of it. An error of plan comes back as it is. After another error it
	// may not be known whether the addition was stored.
	Append(ctx context.Context, ids []uuid.UUID, plan func(Known) (Addition, error)) error
	// CheckWrite commits a write and checks that the schema is this program's.
	CheckWrite(ctx context.Context) error
	// Reclaim gives back the space of what has expired before the month of a time,
	// where the database does not do that by itself.
	Reclaim(ctx context.Context, now time.Time) error
}

// Reader is the part of a Store that reads what was committed.
type Reader interface {
	Hashes
	Evidence
	Queries
}

// Queries is what people ask for.
type Queries interface {
	// Query returns the events that pass the filter, newest first.
	Query(ctx context.Context, filter Filter) (Page, error)
	// Holds returns the legal holds, by correlation ID.
	Holds(ctx context.Context) ([]Hold, error)
}

// Evidence is a log as it is stored, in its order.
type Evidence interface {
	// Head returns the head of the log.
	Head(ctx context.Context) (Head, error)
	// Rows returns the events from one log index up to but without another, at most
	// limit of them: fewer than there are where they are large, but at least one.
	Rows(ctx context.Context, from, to int64, limit int) ([]Row, error)
	// Kept returns the checkpoints that were kept, at most limit of those whose ID
	// is greater than after.
	Kept(ctx context.Context, after int64, limit int) ([]Kept, error)
}

// Leaves is the level below that of the tiles: leaf hashes.
const Leaves = -1

// Hashes is what a tree is kept as.
type Hashes interface {
	// Hashes returns the rows from one index up to but without another that there
	// are, in order: the leaf hashes, or the full tiles of a level.
	Hashes(ctx context.Context, level int, from, to int64) ([]HashRow, error)
}

// HashRow is a leaf hash at its log index, or a tile's hashes at the tile's.
type HashRow struct {
	Index int64
	Data  []byte
}

// Head is the row that all appends lock. A log that has never been written to
// has the zero Head.
type Head struct {
	Size       int64
	Checkpoint string // of that size, signed
	Verifier   string // public key of all checkpoints
}

// Known is what a transaction sees of the log. Tx is of use within it alone.
type Known struct {
	Head   Head
	Stored map[uuid.UUID]Placed
	Tx     Tx
}

// Tx reads what a transaction sees.
type Tx interface {
	Hashes
	// Expirable returns the next events of a sweep, in the order of the log and
	// without their bodies, and at most limit of them, fewer where they are large. It
	// returns the error of Sweep.Found.
	Expirable(ctx context.Context, sweep *Sweep, limit int) ([]Stored, error)
	// Hold returns the hold on a correlation ID, and false where there is none.
	Hold(ctx context.Context, correlationID string) (Hold, bool, error)
}

// Hold keeps the events of a correlation ID, those to come included, from expiring.
type Hold struct {
	CorrelationID string    `json:"correlation_id"`
	Reason        string    `json:"reason"`
	PlacedBy      string    `json:"placed_by"`
	PlacedAt      time.Time `json:"placed_at"`
}

// Addition is what goes into the log at once. Records take the log indices from
// the head's size on. An Addition without a Head changes nothing but Conflicts.
type Addition struct {
	RecordedAt time.Time // in microseconds
	Records    []Record
	Tiles      []ledger.Tile
	Head       Head // the zero Head where the log stays as it is
	// Conflicts are kept apart, each content of an ID once.
	Conflicts []Record
	// Milestone is set where the checkpoint is to be found when others have
	// followed it.
	Milestone bool
	// Expired are those of Expirable that lose their bodies.
	Expired []Stored
	Placed  *Hold
	// Released is the correlation ID of a hold that ends, or empty.
	Released string
}

// RowColumns are the columns of an event that Row.Columns holds, in its order.
var RowColumns = [...]string{
	"event_id", "event_timestamp", "event_type", "event_category", "event_outcome",
	"correlation_id", "severity", "resource_id", "namespace", "recorded_at",
}

// Row is an event as its table has it, for those who do not take that for true.
// A column is a string, or microseconds since 1970 as an int64, or nil for NULL;
// what is of another type was not written by this program.
// Body is nil where it has expired. ExpiresAt is when it may, by its column: one
// more that Columns could have, NULL as the policy says and NeverExpires for good.
type Row struct {
	LogIndex  int64
	Columns   [len(RowColumns)]any
	LeafHash  []byte
	Body      []byte
	ExpiresAt any
}

// NeverExpires is the Row.ExpiresAt of what is kept for good.
const NeverExpires int64 = math.MaxInt64

// MaxPageBytes is the size of the bodies after which Rows and Query end.
const MaxPageBytes = 8 << 20

// Kept is a checkpoint that was kept. IDs grow with time.
type Kept struct {
	ID         int64
	Size       int64
	Checkpoint string
}

// ReadOpener opens the database that a URL names without changing anything. The
// caller calls the returned function once, after the last use of the reader.
type ReadOpener func(ctx context.Context, url string) (Reader, func() error, error)

// Opener opens the database that a URL names and brings its schema up to date.
// With unsafe it takes a database that acknowledges events before they are
// durable. The caller calls the returned function once, after the last use of the
// store.
type Opener func(ctx context.Context, url string, unsafe bool) (Store, func() error, error)

// FilterColumns are the names that Filter.Equal may have, by how few events they
// are expected to leave. Each is a query parameter of the API, a member of the event
// and a column of the database, with an index that begins with it but for the last.
var FilterColumns = []string{
	"event_id", "correlation_id", "resource_id", "event_type", "event_outcome",
	"namespace", "event_category", "severity",
}

// Usual are the values that most events have and that are in no index therefore.
var Usual = map[string]string{
	"event_type":     audit.TypeMessageSent,
	"event_outcome":  audit.OutcomeSuccess,
	"event_category": "notification",
}

// Filter selects events. The zero values of IDs, Since, Until and After do not
// restrict anything; Since and Until are inclusive. Limit must be positive.
type Filter struct {
	Equal        map[string]string
	IDs          []uuid.UUID // of which the event has one
	Since, Until time.Time
	After        *Cursor
	Limit        int
	Offset       int
}

// All reports whether each event passes.
func (f *Filter) All() bool {
	return len(f.Equal)+len(f.IDs) == 0 && f.Since.IsZero() && f.Until.IsZero()
}

// Along returns the columns that lead to the events: the one that an index begins with,
// and the namespace where that index has it too. It is empty where the time leads there.
func (f *Filter) Along() []string {
	for _, column := range FilterColumns[:len(FilterColumns)-1] {
		value, ok := f.Equal[column]
		if !ok || value == Usual[column] {
			continue
		}
		if _, ok := f.Equal["namespace"]; ok && (column == "event_type" || column == "event_outcome") {
			return []string{column, "namespace"}
		}
		return []string{column}
	}
	return nil
}

// Cursor is a position in the order newest first: by event time (microseconds
// since 1970), then by log index.
type Cursor struct {
	Micros   int64
	LogIndex int64
}

// MaxTotal is how far events are counted that pass a filter, and MaxCounted among how
// many of those that its index leads to, the newest.
const (
	MaxTotal   = 10_000
	MaxCounted = 50_000
)

// Page is what a query found. Total counts all that passes the filter, whatever
// the limit, the offset and the cursor, as far as MaxTotal and MaxCounted go; of a
// filter that selects all, it counts all. There are fewer events than the limit
// where they are large, so that their bodies take not much more than MaxPageBytes,
// but at least one. Next is the position of the last event where more follow, else
// nil.
type Page struct {
	Events []Stored
	Total  int64
	Next   *Cursor
}

// Conflict is a record whose ID is taken. LogIndex is where the stored event
// is, or negative where the other event is in the same batch.
type Conflict struct {
	Index    int
	LogIndex int64
}

// ConflictError says which records of a batch have an ID that is taken by an
// event with other content. Nothing of the batch was stored.
type ConflictError struct{ Conflicts []Conflict }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("append events: %d of them have an ID that is taken by other content", len(e.Conflicts))
}

// place gives each record its index in a log of head events, where stored holds
// those of the records' IDs that the log has. It returns the outcome of each
// record and the positions of the records to insert, which take the indices from
// head on in that order.
func place(records []Record, stored map[uuid.UUID]Placed, head int64) ([]Appended, []int, error) {
	earlier := make(map[uuid.UUID]Placed, len(records)) // in the batch
	appended := make([]Appended, len(records))
	fresh := make([]int, 0, len(records))
	var conflicts []Conflict
	for i := range records {
		r := &records[i]
		old, known := stored[r.Event.EventID]
		before, inBatch := earlier[r.Event.EventID]
		if inBatch {
			old = before
		}
		switch {
		case !known && !inBatch:
			index := head + int64(len(fresh))
			earlier[r.Event.EventID] = Placed{index, r.LeafHash}
			appended[i] = Appended{LogIndex: index}
			fresh = append(fresh, i)
		case old.LeafHash == r.LeafHash:
			appended[i] = Appended{LogIndex: old.LogIndex, Duplicate: true}
		case inBatch:
			conflicts = append(conflicts, Conflict{Index: i, LogIndex: -1})
		default:
			conflicts = append(conflicts, Conflict{Index: i, LogIndex: old.LogIndex})
		}
	}
	if conflicts != nil {
		return nil, nil, &ConflictError{conflicts}
	}
	return appended, fresh, nil
}

// CheckSchema returns an error that says what to do unless the database's schema
// version is the one that the program knows.
func CheckSchema(current, known int64) error {
	switch {
	case current > known:
		return fmt.Errorf("%w: its schema version %d is newer than this program's %d; run the newer datastorage", ErrConfig, current, known)
	case current < known:
		return fmt.Errorf("%w: its schema version %d is older than this program's %d; run datastorage migrate", ErrConfig, current, known)
	}
	return nil
}
