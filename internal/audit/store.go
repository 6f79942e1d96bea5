package audit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"kubernaut.ai/notification/internal/ledger"
)

// Config holds the store's settings. Validate says what is allowed.
type Config struct {
	BufferSize    int           // events that wait in memory for a batch
	BatchSize     int           // events that are sent without waiting for the flush interval
	FlushInterval time.Duration // the longest wait for a batch to fill
	MaxRetries    int           // tries after the first before a batch goes to the DLQ
	LogKey        string        // public key of DataStorage's log; empty: the one that it names first
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
	if c.LogKey != "" {
		if err := ledger.CheckVerifier(c.LogKey); err != nil {
			errs = append(errs, fmt.Errorf("--audit-log-key is %q; %w", c.LogKey, err))
		}
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
	Witness    *Witness // nil: nobody looks at the checkpoints
}

// Receipt says what became of one event.
type Receipt struct {
	EventID    uuid.UUID
	Namespace  string // of the resource that the event is about
	ResourceID string // its name
	Recorded   bool   // DataStorage holds the event; otherwise it rejected it
	LogIndex   *int64 // place in DataStorage's log, nil where the answer did not say
	LogSize    int64  // of the log that holds the event, 0 where nothing vouches for it
	LogRoot    string // of that log, in base64
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
//
// In memory it holds a buffer of at most Config.BufferSize events and 16 MiB,
// whichever comes first, and besides at most four batches in flight and one
// that is replayed, each of at most 1000 events and 4 MiB. A batch that is being
// sent exists a second time as JSON.
type Store struct {
	cfg        Config
	poster     Poster
	dlq        DLQ
	log        logr.Logger
	onReceipts func([]Receipt)
	witness    *Witness
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
	spilling int                    // events that Record is moving from pending to the DLQ
	bytes    int                    // of pending and of what spills
	spills   int                    // writes with which Record has tried to make room
	spillErr error                  // what the last of them said
	alone    bool                   // one of them has failed since there was room
	held     map[uuid.UUID]struct{} // pending, spilling, in flight or being replayed
	inFlight int                    // batches, without the replay
	sealed   bool                   // Close has begun: nothing is added to pending
	refused  map[uuid.UUID]uint64   // what was rejected, and the hash of why
	outage   outage
	dlqLines lines // about the DLQ
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
		witness:    opts.Witness,
		wake:       make(chan struct{}, 1),
		deadDue:    make(chan struct{}, 1),
		recovered:  make(chan struct{}, 1),
		held:       make(map[uuid.UUID]struct{}),
		refused:    make(map[uuid.UUID]uint64),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	s.posting, s.cut = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
	defer cancel()
	depth, err := dlq.Settle(ctx, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read dead-letter queue: %w", err)
	}
	s.setDepth(depth, 0) // all that is there counts as recorded
	s.metrics = newMetrics(s.Stats)
	if opts.Metrics != nil {
		if err := opts.Metrics.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("register audit metrics: %w", err)
		}
	}
	return s, nil
}

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
