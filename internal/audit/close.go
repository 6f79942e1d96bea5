package audit

import (
	"context"
	"fmt"
	"time"
)

// Close sends what it can, puts the rest into the DLQ and returns within ctx,
// except for the time that one write of the DLQ takes. Call it after the manager
// has returned, on every path; a further call returns what the first did. An
// error means that events are in memory only. Record stays usable afterwards and
// goes straight to the DLQ.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() { s.closed = s.close(ctx) })
	return s.closed
}

func (s *Store) close(ctx context.Context) error {
	s.mu.Lock()
	s.sealed = true
	s.mu.Unlock()
	s.stop()

	flush, cancel := context.WithCancel(ctx)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		// The DLQ needs some of the time too.
		flush, cancel = context.WithTimeout(flush, time.Until(deadline)*3/4)
		defer cancel()
	}
	defer s.cut()
	defer context.AfterFunc(flush, s.cut)()
	s.work.Wait()
	for flush.Err() == nil {
		s.mu.Lock()
		batch := s.take()
		s.mu.Unlock()
		if len(batch) == 0 {
			break
		}
		s.send(flush, batch)
	}
	err := s.spillRest()
	stats := s.Stats()
	s.log.Info("Audit store closed",
		"buffered_count", stats.Recorded, "written_count", stats.Committed, "dropped_count", 0,
		"failed_batch_count", stats.FailedBatches, "retried_count", stats.Retried,
		"spilled_count", stats.Spilled, "replayed_count", stats.Replayed,
		"rejected_count", stats.Rejected, "dlq_count", stats.DeadLettered)
	if err != nil {
		return fmt.Errorf("close audit store: %d events are in memory only: %w", stats.Buffered, err)
	}
	return nil
}

func (s *Store) spillRest() error {
	// Record may have the buffer in its hands, and give it back.
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	s.mu.Lock()
	rest := s.pending
	s.pending, s.bytes = nil, 0
	s.mu.Unlock()
	if len(rest) == 0 {
		return nil
	}
	if err := s.spill(rest); err != nil {
		s.giveBack(rest)
		return err
	}
	return nil
}
