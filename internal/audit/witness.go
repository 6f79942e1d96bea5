package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"kubernaut.ai/notification/internal/ledger"
)

const (
	// witnessRound is how often the witness looks at what has come in, so that the
	// proofs it asks for are few, however many batches are acknowledged.
	witnessRound = time.Second
	// maxPending is how many checkpoints wait to be proven. One between two others
	// is dropped beyond that: they prove it, unless it is of another log.
	maxPending = 16
	// maxCheckpoint is how much of a checkpoint is read, ample for signatures of others.
	maxCheckpoint = 4 << 10
	// witnessIdle is how long nothing is heard of the log before it is asked.
	witnessIdle = 5 * time.Minute
	// tellAgain is how long a contradiction that lasts is not told again. The API
	// server forgets its Event in that time.
	tellAgain      = time.Hour
	witnessAwait   = 2 * time.Second
	longestPause   = time.Minute
	failuresOfNote = 5
	maxDoubts      = 3
)

// Log answers about DataStorage's log, with one request for each call. An answer
// that refuses is a *PostError; other errors mean that there was no answer.
type Log interface {
	// Key returns the public key.
	Key(ctx context.Context) (string, error)
	// Checkpoint returns the newest one, signed.
	Checkpoint(ctx context.Context) (string, error)
	// Consistency returns the proof that the log of to events begins with that of
	// from events, both at least 1. An answer that cannot be read proves nothing.
	Consistency(ctx context.Context, from, to int64) ([]ledger.Hash, error)
}

// WitnessOptions are the witness's connections to the rest of the process.
type WitnessOptions struct {
	Log     logr.Logger
	Metrics prometheus.Registerer // nil: no metrics
	// Alarm hears of each contradiction once an hour. It is called from the goroutine of
	// Start, and must end with its context.
	Alarm func(ctx context.Context, reason string)
}

// Witness remembers what DataStorage has said of its log and notices where that
// is not what it says now. It looks at the checkpoint of each acknowledgement,
// and never keeps an event from being recorded.
type Witness struct {
	remote Log
	keeper Keeper
	log    logr.Logger
	alarm  func(context.Context, string)
	given  string // the public key of --audit-log-key
	asks   chan chan struct{}

	// mu guards what follows. No call leaves the package while it is held.
	mu      sync.Mutex
	key     string // empty before it is known
	pending []seen
	// These three are written by the goroutine of Start alone.
	contradictions int
	newest         seen // and proven
	evidence       map[string]string

	// What follows belongs to the goroutine of Start.
	told     map[string]time.Time // of contradictions, by cause
	doubts   int                  // rounds in a row with a proof that was refused and may yet be given
	heard    time.Time            // of the log
	failures int                  // rounds in a row
	next     time.Time            // no round before
	dirty    bool                 // there is something to save
	tried    time.Time            // to save
	failing  bool                 // the last try to save has failed
}

// seen is a checkpoint. signed is empty where there is none.
type seen struct {
	ledger.Checkpoint        // empty where nobody is known to have signed it
	signed            string // as it came
	fault             string // what is wrong with it whatever the log held before
}

// NewWitness returns a witness that knows nothing before Start. It trusts the key,
// or where that is empty the one that was kept, or else the log's own word.
func NewWitness(key string, remote Log, keeper Keeper, opts WitnessOptions) (*Witness, error) {
	w := &Witness{
		remote: remote, keeper: keeper, given: key,
		log:   opts.Log.WithName("audit-witness"),
		alarm: opts.Alarm,
		asks:  make(chan chan struct{}),
	}
	if opts.Metrics != nil {
		if err := registerWitness(opts.Metrics, w); err != nil {
			return nil, fmt.Errorf("register witness metrics: %w", err)
		}
	}
	return w, nil
}

// NeedLeaderElection has one witness alone write what is kept.
func (w *Witness) NeedLeaderElection() bool { return true }

// Start checks what comes in until ctx ends, and then keeps what it knows. It is
// called once.
func (w *Witness) Start(ctx context.Context) error {
	w.load(ctx)
	ticker := time.NewTicker(witnessRound)
	defer ticker.Stop()
	var asked chan struct{}
	for {
		w.round(ctx)
		if asked != nil {
			close(asked)
			asked = nil
		}
		select {
		case <-ctx.Done():
			w.finish(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
		case asked = <-w.asks:
			w.next = time.Time{}
		}
	}
}

// finish checks what came in since the last round, where that takes no time, and
// keeps what is known.
func (w *Witness) finish(ctx context.Context) {
	proving, cancel := context.WithTimeout(ctx, witnessAwait)
	defer cancel()
	w.round(proving)
	if w.dirty {
		w.save(ctx)
	}
}

// Check is a readiness check for people, who ask verbosely: it fails while there
// is evidence of a contradiction. The kubelet does not ask so, and the manager
// stays in service.
func (w *Witness) Check(req *http.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.evidence); n > 0 && req.URL.Query().Has("verbose") {
		return fmt.Errorf("check audit log: it was not what it had been, of which %d pieces of evidence are kept", n)
	}
	return nil
}

// Await returns once the witness has asked for the key that it needs, and after
// two seconds in any case. Called before the first event, it lets that event's
// receipt be one that is verified.
func (w *Witness) Await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, witnessAwait)
	defer cancel()
	done := make(chan struct{})
	select {
	case w.asks <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// observe takes the checkpoint of an acknowledgement and returns what it says, and
// true where the log's key has signed that and it holds the events. It may be
// called from any goroutine, and does not block. A nil witness sees nothing.
func (w *Witness) observe(ack Ack) (ledger.Checkpoint, bool) {
	if w == nil || ack.Checkpoint == "" {
		return ledger.Checkpoint{}, false
	}
	key, _ := w.known()
	if key == "" {
		return ledger.Checkpoint{}, false // A later one will prove this one too.
	}
	s := seen{signed: ack.Checkpoint[:min(len(ack.Checkpoint), maxCheckpoint)]}
	var err error
	if s.Checkpoint, err = ledger.Verify(s.signed, key); err != nil {
		s.Checkpoint, s.fault = ledger.Checkpoint{}, err.Error()
	} else if len(ack.LogIndices) > 0 && slices.Max(ack.LogIndices) >= s.Size {
		s.fault = fmt.Sprintf("an event was acknowledged as number %d of the log, with a checkpoint of %d events", slices.Max(ack.LogIndices), s.Size)
	}
	w.add(s)
	return s.Checkpoint, s.fault == "" && len(ack.LogIndices) > 0
}

// known returns the key, and the newest checkpoint that is proven.
func (w *Witness) known() (key string, newest seen) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.key, w.newest
}

// add puts checkpoints where those wait that are to be proven.
func (w *Witness) add(list ...seen) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, list...)
	slices.SortStableFunc(w.pending, func(a, b seen) int { return cmp.Compare(a.Size, b.Size) })
	for len(w.pending) > maxPending {
		w.pending = slices.Delete(w.pending, maxPending/2, maxPending/2+1)
	}
}

// round checks what has come in, unless the last rounds have failed, and keeps
// what is new.
func (w *Witness) round(ctx context.Context) {
	if !time.Now().Before(w.next) {
		err := w.work(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			w.failed(err)
		case err == nil:
			if w.failures >= failuresOfNote {
				w.log.Info("The audit log can be checked again")
			}
			w.failures = 0
		}
	}
	if w.dirty && time.Since(w.tried) >= keepEvery {
		w.save(ctx)
	}
}

// failed puts the next round off. A server that has no log is none to complain of.
func (w *Witness) failed(err error) {
	w.next = time.Now().Add(min(witnessRound<<min(w.failures, 10), longestPause))
	w.failures++
	answer, answered := errors.AsType[*PostError](err)
	if w.failures == failuresOfNote && (!answered || answer.Status != http.StatusNotFound) {
		w.log.Info("The audit log cannot be checked at present", "reason", err.Error())
	}
}

// work checks what has come in. An error says that it is to be tried again.
func (w *Witness) work(ctx context.Context) error {
	if err := w.trust(ctx); err != nil {
		return err
	}
	if time.Since(w.heard) >= witnessIdle {
		signed, err := w.remote.Checkpoint(ctx)
		if err != nil {
			return err
		}
		w.heard = time.Now()
		w.observe(Ack{Checkpoint: signed})
	}
	w.mu.Lock()
	pending := w.pending
	w.pending = nil
	w.mu.Unlock()
	for i, s := range pending {
		w.heard = time.Now()
		if err := w.check(ctx, s); err != nil {
			w.add(pending[i:]...)
			return err
		}
	}
	w.doubts = 0
	return nil
}

// trust asks for the key where there is none.
func (w *Witness) trust(ctx context.Context) error {
	if key, _ := w.known(); key != "" {
		return nil
	}
	key, err := w.remote.Key(ctx)
	if err == nil {
		err = ledger.CheckVerifier(key)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.key = key
	w.mu.Unlock()
	w.dirty = true
	w.log.Info("The audit log's public key is trusted from now on, since --audit-log-key names none", "key", key)
	return nil
}
