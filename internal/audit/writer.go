package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	maxInFlight        = 4
	firstBackoff       = 100 * time.Millisecond
	maxBackoff         = 5 * time.Second
	maxRetryAfter      = 5 * time.Minute
	failureLogInterval = 5 * time.Second
)

// outage is what the last failed requests say about DataStorage.
type outage struct {
	// down: a batch has used up its tries and nothing was answered since. The
	// replay alone keeps asking, so that new batches do not wait their turn to
	// fail; they go to the DLQ.
	down   bool
	since  time.Time
	until  time.Time // the replay does not ask before
	denied error     // it refused the credentials
	lines  lines     // about failed requests
}

// NeedLeaderElection tells the manager to run the store on every replica: each
// has a DLQ of its own to empty.
func (s *Store) NeedLeaderElection() bool { return false }

// Start sends what Record takes on, and what waits in the DLQ, until ctx ends.
// Requests that are under way then are not waited for, and the store stays
// open: Close does the rest. It is called once.
func (s *Store) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	// The keys of the lines about the start, the end and a failure are those of the
	// original system, which people and their tools search its logs for.
	start, ticks := time.Now(), 0
	s.log.Info("Audit background writer started", "flush_interval", s.cfg.FlushInterval.String(),
		"batch_size", s.cfg.BatchSize, "buffer_size", s.cfg.BufferSize, "start_time", start.Format(time.RFC3339Nano))
	defer func() {
		s.log.Info("Audit background writer stopped", "total_runtime", time.Since(start).String(), "total_ticks", ticks)
	}()

	s.mu.Lock()
	if !s.sealed {
		s.work.Go(func() { s.replay(ctx) })
	}
	s.mu.Unlock()
	ticker := time.NewTicker(s.cfg.FlushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticks++
			s.dispatch(ctx, 1)
		case <-s.wake:
			s.dispatch(ctx, s.cfg.BatchSize)
		}
	}
}

// dispatch sends batches while at least the given number of events waits and
// not too many are in flight. A batch takes all that waits: it grows by itself
// while DataStorage is slower than the callers.
func (s *Store) dispatch(ctx context.Context, least int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.sealed && ctx.Err() == nil && s.inFlight < maxInFlight && len(s.pending) >= least {
		batch := s.take()
		s.inFlight++
		s.work.Go(func() {
			s.send(ctx, batch)
			s.mu.Lock()
			s.inFlight--
			s.mu.Unlock()
			signal(s.wake)
		})
	}
}

// send brings events to DataStorage or to the DLQ. When ctx ends first, what
// is left goes back to the buffer.
func (s *Store) send(ctx context.Context, events []Event) {
	spillFailed := false
	for attempt := 1; ; attempt++ {
		var delay time.Duration
		if spillFailed || !s.isDown() {
			if attempt > 1 {
				s.mu.Lock()
				s.counts.Retried++
				s.mu.Unlock()
			}
			left, err := s.deliver(events, false)
			if err == nil {
				return
			}
			if len(left) < len(events) {
				attempt = 1
			}
			events = left
			delay = s.failed(err, attempt, len(events))
			// A long wait is not for memory to sit out.
			if _, ofDLQ := errors.AsType[*dlqError](err); !ofDLQ && (attempt > s.cfg.MaxRetries || delay > maxBackoff) {
				s.markDown(delay)
			}
		}
		if s.isDown() {
			err := s.spillBatch(events)
			if err == nil {
				return
			}
			spillFailed = true
			s.logFailure(err, attempt, len(events))
		}
		if !pause(ctx, delay, nil) {
			s.giveBack(events)
			return
		}
	}
}

// spillBatch moves a batch that DataStorage does not take to the DLQ.
func (s *Store) spillBatch(events []Event) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	if err := s.spill(events); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.FailedBatches++
	return nil
}

// replay sends what waits in the DLQ, for as long as it takes. It has no part
// in the batches in flight, so that neither old nor new events hold the others up.
func (s *Store) replay(ctx context.Context) {
	limit, failures := maxBatch, 0
	for {
		if !pause(ctx, s.embargo(), s.recovered) {
			return
		}
		delay := s.cfg.FlushInterval
		events, waiting, err := s.claim(limit)
		if err == nil && len(events) > 0 {
			delay = 0
			events, err = s.deliver(events, true)
		}
		if err != nil {
			failures++
			delay = s.failed(err, failures, len(events))
			// A smaller batch next time finds the event that makes DataStorage
			// fail, and asks for little while it is down.
			limit = max(limit/2, 1)
			s.mu.Lock()
			s.release(events)
			s.mu.Unlock()
		} else {
			failures, limit = 0, min(limit*2, maxBatch)
		}
		early := s.recovered
		if !waiting {
			delay, early = dlqLook, s.deadDue
		}
		if !pause(ctx, delay, early) {
			return
		}
	}
}

// failed takes note of a failed try and returns how long to wait before the next.
func (s *Store) failed(err error, attempt, size int) time.Duration {
	delay := backoff(attempt)
	if s.posting.Err() != nil {
		return delay // Close has cut the request off, DataStorage is not to blame
	}
	s.logFailure(err, attempt, size)
	answer, answered := errors.AsType[*PostError](err)
	if answered && answer.RetryAfter > 0 {
		delay = min(answer.RetryAfter, maxRetryAfter)
	}
	if answered && (answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outage.denied = fmt.Errorf("write audit events: %w", answer)
	}
	return delay
}

func (s *Store) markDown(delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.outage.down {
		s.outage.down, s.outage.since = true, now
	}
	s.outage.until = now.Add(delay)
}

// embargo is how long DataStorage is to be left alone.
func (s *Store) embargo() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.outage.until)
}

// answered ends an outage: DataStorage has given a definite answer.
func (s *Store) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outage.down {
		s.log.Info("Audit batches are answered again", "outage", time.Since(s.outage.since).String(),
			"deadLettered", s.counts.DeadLettered)
		signal(s.recovered)
	}
	s.outage.down, s.outage.until, s.outage.denied = false, time.Time{}, nil
}

func (s *Store) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outage.down
}

// logFailure writes the first failures of requests in full, since they tell how
// an outage began, and then only enough to show that it lasts. Those of the DLQ
// have a line of their own.
func (s *Store) logFailure(err error, attempt, size int) {
	_, ofDLQ := errors.AsType[*dlqError](err)
	s.mu.Lock()
	lines, most := &s.outage.lines, 1
	switch {
	case ofDLQ:
		lines = &s.dlqLines
	case !s.outage.down:
		most += s.cfg.MaxRetries
	}
	allowed := lines.allow(most)
	s.mu.Unlock()
	switch {
	case !allowed:
	case ofDLQ:
		s.log.Error(err, "The dead-letter queue cannot be used", "attempt", attempt, "events", size)
	default:
		s.log.Error(err, "Failed to write audit batch", "attempt", attempt, "batch_size", size)
	}
}

// lines counts the log lines of one kind in the interval that began at start.
type lines struct {
	start time.Time
	n     int
}

// allow reports whether one more line keeps within what an interval may have.
func (l *lines) allow(most int) bool {
	if now := time.Now(); now.Sub(l.start) >= failureLogInterval {
		l.start, l.n = now, 0
	}
	l.n++
	return l.n <= most
}

// backoff is the wait after the given failed attempt, from 1: twice the one
// before, half of it random so that the replicas do not come back in step.
func backoff(attempt int) time.Duration {
	full := min(firstBackoff<<min(attempt-1, 10), maxBackoff)
	return full/2 + rand.N(full/2+1)
}

// pause waits for d, or for word on early, which may be nil, and reports false
// where ctx ended first.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	case <-early:
		return true
	}
}
