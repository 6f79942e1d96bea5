package audit

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxBatch is the most events that DataStorage takes in one request.
	maxBatch = 1000
	// maxBatchBytes keeps a request below the 5 MiB that DataStorage takes, and
	// maxBufferBytes what waits in memory within the limits of a pod, however
	// large the events are. Both count what eventBytes does.
	maxBatchBytes  = 4 << 20
	maxBufferBytes = 16 << 20
)

// Record takes an event on. It may be called from any goroutine at any time,
// before Start and after Close too; the event's data must not be changed
// afterwards. Nil means that the store holds the event, in memory or in the DLQ;
// an ID that it holds already is not taken twice. An error means that it does
// not hold it, and the caller must come back. Record blocks only where the
// buffer is full, for the one write that empties it into the DLQ and the calls
// of the DLQ that are before it.
func (s *Store) Record(e Event) error {
	if broken := e.Validate(); broken != nil {
		return fmt.Errorf("record audit event %s: %s", e.EventID, joinViolations(broken))
	}
	s.mu.Lock()
	kept, spills := s.keep(&e), s.spills
	s.mu.Unlock()
	if kept {
		return nil
	}
	if err := s.recordFull(&e, spills); err != nil {
		return fmt.Errorf("record audit event %s: %w", e.EventID, err)
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

// keep reports whether the store holds the event, and takes it into the buffer
// where it does not and there is room. It is called with mu held.
func (s *Store) keep(e *Event) bool {
	if _, known := s.held[e.EventID]; known {
		return true
	}
	size := e.Size()
	if s.sealed || len(s.pending)+s.spilling >= s.cfg.BufferSize || s.bytes+size > maxBufferBytes {
		return false
	}
	s.alone = false
	s.held[e.EventID] = struct{}{}
	s.pending = append(s.pending, *e)
	s.bytes += size
	s.counts.Recorded++
	s.counts.Buffered++
	if len(s.pending) >= s.cfg.BatchSize {
		signal(s.wake)
	}
	return true
}

// recordFull moves the buffer and the event to the DLQ in one write, which costs
// the disk little more than one event alone would. Callers that come meanwhile
// wait for that write, and then find room or share its error: a disk that hangs
// holds each of them up once. spills is the number of such writes when the
// caller found the buffer full.
func (s *Store) recordFull(e *Event, spills int) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	s.mu.Lock()
	if s.keep(e) {
		s.mu.Unlock()
		return nil
	}
	if s.spills != spills && s.spillErr != nil {
		defer s.mu.Unlock()
		return s.spillErr
	}
	var buffered []Event
	bytes := 0
	// While Close sends what is buffered, the event goes alone. So it does after
	// a failure: there may be room for one, and a disk that fails is not to be
	// tried with thousands each time.
	if !s.sealed && !s.alone {
		buffered, bytes = s.pending, s.bytes
		s.spilling = len(buffered)
		s.pending = make([]Event, 0, min(len(buffered), maxBatch))
	}
	s.mu.Unlock()

	added, err := s.put(append(buffered, *e))

	s.mu.Lock()
	defer s.mu.Unlock()
	s.spilling = 0
	s.spills++
	s.spillErr = err
	if err != nil {
		s.alone = true
		s.pending = slices.Concat(buffered, s.pending)
		return err
	}
	s.bytes -= bytes
	s.counts.Recorded++
	s.counts.Buffered++
	s.spilled(len(buffered)+1, added)
	s.release(buffered)
	return nil
}

// take is called with mu held.
func (s *Store) take() []Event {
	n, bytes := 0, 0
	for n < min(len(s.pending), maxBatch) && (n == 0 || bytes+s.pending[n].Size() <= maxBatchBytes) {
		bytes += s.pending[n].Size()
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
		s.bytes += events[i].Size()
	}
}
