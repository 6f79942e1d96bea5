package audit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxBatch is the most events that DataStorage takes in one request.
	maxBatch = 1000
	// maxBatchBytes keeps a request below the 5 MiB that DataStorage takes, and
	// maxBufferBytes what waits in memory within the limits of a pod, however
	// large the events are. Both count what eventBytes does.
	maxBatchBytes  = 4 << 20
	maxBufferBytes = 16 << 20
	// dlqTimeout bounds one call of the DLQ. The calls do not end with the
	// context of whoever makes them: a write that is cut off leaves open whether
	// it was made, and the counts could not be kept.
	dlqTimeout = 10 * time.Second
)

// Config holds the store's settings. Validate says what is allowed.
type Config struct {
	BufferSize    int           // events that wait in memory for a batch
	BatchSize     int           // events that are sent without waiting for the flush interval
	FlushInterval time.Duration // the longest wait for a batch to fill
	MaxRetries    int           // tries after the first before a batch goes to the DLQ
}

// Validate returns an error that names the flag of each setting that is not allowed.
func (c Config) Validate() error {
	var errs []error
	if c.BatchSize < 10 || c.BatchSize > maxBatch {
		errs = append(errs, fmt.Errorf("--audit-batch-size is %d; allowed is 10 to %d", c.BatchSize, maxBatch))
	}
	if c.BufferSize < c.BatchSize || c.BufferSize > 1_000_000 {
		errs = append(errs, fmt.Errorf("--audit-buffer-size is %d; allowed is --audit-batch-size (%d) to 1000000", c.BufferSize, c.BatchSize))
	}
	if c.FlushInterval < time.Millisecond || c.FlushInterval > time.Minute {
		errs = append(errs, fmt.Errorf("--audit-flush-interval is %s; allowed is 1ms to 1m", c.FlushInterval))
	}
	if c.MaxRetries < 0 || c.MaxRetries > 20 {
		errs = append(errs, fmt.Errorf("--audit-max-retries is %d; allowed is 0 to 20", c.MaxRetries))
	}
	return errors.Join(errs...)
}

// Options are the store's connections to the rest of the process.
type Options struct {
	Log     logr.Logger
	Metrics prometheus.Registerer // nil: no metrics
	// OnReceipts hears what became of events, several at a time. It is called
	// from the store's goroutines, during Close too, and must not block.
	OnReceipts func([]Receipt)
}

// Receipt says what became of one event.
type Receipt struct {
	EventID    uuid.UUID
	Namespace  string // of the resource that the event is about
	ResourceID string // its name
	Recorded   bool   // DataStorage holds the event; otherwise it rejected it
	LogIndex   *int64 // place in DataStorage's log, nil where the answer did not say
	Time       time.Time
	Reason     string // why the event was rejected
}

// Rejection is an event that DataStorage will not take, and why.
type Rejection struct {
	Event  Event
	Status int // the HTTP status of the answer
	Reason string
}

// Depth is what a DLQ holds.
type Depth struct {
	Waiting  int       // to be sent again
	Rejected int       // kept with DataStorage's reason
	Aside    int       // unreadable, kept for a person
	Oldest   time.Time // when the oldest of Waiting came, zero where there is none
}

// RejectedRecheck is how long a rejected event rests before it is offered to
// DataStorage again: its cause may have been mended.
const RejectedRecheck = 10 * time.Minute

// DLQ keeps events outside the process. The store calls one method at a time.
type DLQ interface {
	// Put returns once all events are durable. Events whose ID waits already are
	// left out of added.
	Put(ctx context.Context, events []Event) (added int, err error)
	// Next returns up to limit waiting events without removing them: the least
	// often returned first, and of those the oldest. Beforehand it puts events
	// that were rejected RejectedRecheck ago or by another process back among
	// those that wait, and sets aside what it cannot read.
	Next(ctx context.Context, limit int) ([]Event, Depth, error)
	// Settle removes the recorded events from those that wait and moves the
	// rejected ones, which need not have waited, to the rejected side. Without
	// either it only reports.
	Settle(ctx context.Context, recorded []uuid.UUID, rejected []Rejection) (Depth, error)
}

// Store takes events from any goroutine and brings them to DataStorage. What
// does not fit into memory, cannot be sent or is rejected goes to the DLQ; no
// event is ever dropped.
type Store struct {
	cfg        Config
	poster     Poster
	dlq        DLQ
	log        logr.Logger
	onReceipts func([]Receipt)
	metrics    *metrics

	wake      chan struct{} // a batch is full, or one that was in flight has ended
	deadDue   chan struct{} // the DLQ has got events
	recovered chan struct{} // DataStorage answers again after an outage

	life    context.Context // ends when Close begins: no more waiting
	stop    context.CancelFunc
	posting context.Context // ends when Close has no time left for requests
	cut     context.CancelFunc
	work    sync.WaitGroup // batches in flight and the replay; added to under mu
	closing sync.Once
	closed  error

	// dlqMu makes a DLQ call and the change of the counts that follows from it
	// one step. It is taken before mu.
	dlqMu sync.Mutex

	// mu guards all below. No call leaves the package while it is held.
	mu       sync.Mutex
	pending  []Event
	bytes    int                    // of pending
	held     map[uuid.UUID]struct{} // pending, in flight or being replayed
	inFlight int                    // batches, without the replay
	sealed   bool                   // Close has begun: nothing is added to pending
	outage   outage
	counts   Stats
}

// NewStore returns a store that holds what waits in the DLQ. It sends nothing
// before Start, but takes events at once. The DLQ must stay usable until after Close.
func NewStore(cfg Config, poster Poster, dlq DLQ, opts Options) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, poster: poster, dlq: dlq,
		log:        opts.Log.WithName("audit-store"),
		onReceipts: opts.OnReceipts,
		wake:       make(chan struct{}, 1),
		deadDue:    make(chan struct{}, 1),
		recovered:  make(chan struct{}, 1),
		held:       make(map[uuid.UUID]struct{}),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	s.posting, s.cut = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
	defer cancel()
	depth, err := dlq.Settle(ctx, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read dead-letter queue: %w", err)
	}
	s.setDepth(depth)
	s.counts.Recorded = s.counts.DeadLettered
	s.metrics = newMetrics(s.Stats)
	if opts.Metrics != nil {
		if err := opts.Metrics.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("register audit metrics: %w", err)
		}
	}
	return s, nil
}

// Record takes an event on. It may be called from any goroutine at any time,
// before Start and after Close too; the event's data must not be changed
// afterwards. Nil means that the store holds the event, in memory or in the DLQ;
// an ID that it holds already is not taken twice. An error means that it does
// not hold it, and the caller must come back.
func (s *Store) Record(e Event) error {
	if broken := e.Validate(); broken != nil {
		return fmt.Errorf("record audit event %s: %s", e.EventID, joinViolations(broken))
	}
	s.mu.Lock()
	if s.sealed || len(s.pending) >= s.cfg.BufferSize || s.bytes+eventBytes(&e) > maxBufferBytes {
		_, known := s.held[e.EventID]
		s.mu.Unlock()
		if known {
			return nil
		}
		return s.recordDead(e)
	}
	before := len(s.held)
	s.held[e.EventID] = struct{}{}
	if len(s.held) == before {
		s.mu.Unlock()
		return nil
	}
	s.pending = append(s.pending, e)
	s.bytes += eventBytes(&e)
	s.counts.Recorded++
	s.counts.Buffered++
	full := len(s.pending) >= s.cfg.BatchSize
	s.mu.Unlock()
	if full {
		signal(s.wake)
	}
	return nil
}

func joinViolations(broken []Violation) string {
	parts := make([]string, len(broken))
	for i, v := range broken {
		parts[i] = v.String()
	}
	return strings.Join(parts, "; ")
}

func (s *Store) recordDead(e Event) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	added, err := s.put([]Event{e})
	if err != nil {
		return fmt.Errorf("record audit event %s: %w", e.EventID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Recorded += added
	s.addDead(added)
	return nil
}

// spill moves events from memory to the DLQ.
func (s *Store) spill(events []Event) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	added, err := s.put(events)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	copies := len(events) - added
	s.counts.Recorded -= copies
	s.counts.Merged += copies
	s.counts.Buffered -= len(events)
	s.addDead(added)
	s.release(events)
	return nil
}

// put is called with dlqMu held.
func (s *Store) put(events []Event) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
	defer cancel()
	added, err := s.dlq.Put(ctx, events)
	if err != nil {
		return 0, fmt.Errorf("write dead-letter queue: %w", err)
	}
	return added, nil
}

// settle accounts for events that have got their answer: rejected ones once
// they are durable on the DLQ's rejected side, recorded ones once no copy can be
// replayed any more.
func (s *Store) settle(recorded []uuid.UUID, rejected []Rejection, replay bool) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	s.mu.Lock()
	needed := replay || len(rejected) > 0 || s.counts.DeadLettered > 0
	s.mu.Unlock()
	var depth Depth
	if needed {
		var err error
		ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
		defer cancel()
		depth, err = s.dlq.Settle(ctx, recorded, rejected)
		switch {
		case err == nil:
		case replay || len(rejected) > 0:
			return fmt.Errorf("settle dead-letter queue: %w", err)
		default:
			// The events are in DataStorage. A copy that stays in the DLQ is
			// replayed and answered as a duplicate, which is better than to hold
			// new events up for a broken disk.
			s.log.Error(err, "Copies of recorded events may remain in the dead-letter queue", "events", len(recorded))
			needed = false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.counts.DeadLettered
	if needed {
		s.setDepth(depth)
	}
	if replay {
		s.counts.Replayed += len(recorded)
	} else {
		copies := before - s.counts.DeadLettered
		s.counts.Recorded -= copies
		s.counts.Merged += copies
		s.counts.Buffered -= len(recorded) + len(rejected)
	}
	s.counts.Committed += len(recorded)
	s.counts.Rejected += len(rejected)
	for _, id := range recorded {
		delete(s.held, id)
	}
	for _, r := range rejected {
		delete(s.held, r.Event.EventID)
	}
	return nil
}

// addDead is called with both locks held.
func (s *Store) addDead(added int) {
	if added == 0 {
		return
	}
	if s.counts.OldestDeadLetter.IsZero() {
		s.counts.OldestDeadLetter = time.Now()
	}
	s.counts.DeadLettered += added
	s.counts.Spilled += added
	signal(s.deadDue)
}

func (s *Store) setDepth(depth Depth) {
	s.counts.DeadLettered = depth.Waiting + depth.Aside
	s.counts.Aside = depth.Aside
	s.counts.OldestDeadLetter = depth.Oldest
}

func (s *Store) release(events []Event) {
	for i := range events {
		delete(s.held, events[i].EventID)
	}
}

// take is called with mu held.
func (s *Store) take() []Event {
	n, bytes := 0, 0
	for n < min(len(s.pending), maxBatch) && (n == 0 || bytes+eventBytes(&s.pending[n]) <= maxBatchBytes) {
		bytes += eventBytes(&s.pending[n])
		n++
	}
	s.bytes -= bytes
	batch := s.pending[:n:n]
	s.pending = s.pending[n:]
	if len(s.pending) == 0 {
		// The batch keeps the array it is in. The next is likely as long.
		s.pending = make([]Event, 0, max(n, s.cfg.BatchSize))
	}
	return batch
}

func (s *Store) giveBack(events []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = slices.Concat(events, s.pending)
	for i := range events {
		s.bytes += eventBytes(&events[i])
	}
}

// eventBytes is about how much memory, and JSON, an event takes.
func eventBytes(e *Event) int { return len(e.EventData) + len(e.ErrorMessage) + 1024 }

// Stats returns the counts of one moment.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.counts
	stats.InFlight = s.inFlight
	return stats
}

// Check is a readiness check: it fails while DataStorage refuses the process's
// credentials.
func (s *Store) Check(*http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outage.denied
}

// signal leaves word in a channel of capacity 1, where one word is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
