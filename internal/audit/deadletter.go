package audit

import (
	"context"
	"hash/maphash"
	"net/http"
	"time"

	"github.com/google/uuid"
)

const (
	// dlqTimeout bounds one call of the DLQ. The calls do not end with the
	// context of whoever makes them: a write that is cut off leaves open whether
	// it was made, and the counts could not be kept.
	dlqTimeout = 10 * time.Second
	// dlqLook is how often an idle store asks the DLQ for what has become due
	// without it: rejected events to be offered again, those of a dead replica.
	dlqLook = time.Minute
	// maxRefused bounds what is remembered of rejections. More of them are
	// reported anew each time.
	maxRefused = 100_000
)

// dlqError is what went wrong with the DLQ, which says nothing of DataStorage.
type dlqError struct {
	verb string
	err  error
}

func (e *dlqError) Error() string { return e.verb + " dead-letter queue: " + e.err.Error() }
func (e *dlqError) Unwrap() error { return e.err }

// put is called with dlqMu held.
func (s *Store) put(events []Event) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
	defer cancel()
	added, err := s.dlq.Put(ctx, events)
	if err != nil {
		return 0, &dlqError{"write", err}
	}
	return added, nil
}

// spill moves events that were taken from the buffer to the DLQ. It is called
// with dlqMu held.
func (s *Store) spill(events []Event) error {
	added, err := s.put(events)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spilled(len(events), added)
	s.release(events)
	return nil
}

// spilled accounts for n events that the DLQ has taken from memory, and of which
// it held all but added already. It is called with both locks held.
func (s *Store) spilled(n, added int) {
	s.counts.Buffered -= n
	s.counts.Recorded -= n - added
	s.counts.Merged += n - added
	s.counts.DeadLettered += added
	s.counts.Spilled += added
	if added > 0 && s.counts.OldestDeadLetter.IsZero() {
		s.counts.OldestDeadLetter = time.Now()
	}
	signal(s.deadDue)
}

// setDepth takes over what the DLQ says that it holds. expected is the change
// that the caller accounts for. Any other is of copies that were found to be one
// event, or of events that another process has left to this one or taken over:
// they come to or leave what is recorded. It is called with both locks held.
func (s *Store) setDepth(depth Depth, expected int) {
	before := s.counts.DeadLettered + s.counts.Rejected
	s.counts.DeadLettered = depth.Waiting + depth.Aside
	s.counts.Aside = depth.Aside
	s.counts.Rejected = depth.Rejected
	s.counts.OldestDeadLetter = depth.Oldest
	more := s.counts.DeadLettered + s.counts.Rejected - before - expected
	s.counts.Recorded += more
	s.counts.Merged += max(0, -more)
}

func (s *Store) release(events []Event) {
	for i := range events {
		delete(s.held, events[i].EventID)
	}
}

// settle accounts for the events that one answer has decided on: rejected ones
// are durable on the DLQ's rejected side then, and of recorded ones no copy can
// be replayed any more. Where it fails, nothing has changed.
func (s *Store) settle(recorded []uuid.UUID, rejected []Rejection, replay bool) error {
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	s.mu.Lock()
	needed := replay || len(rejected) > 0 || s.counts.DeadLettered > s.counts.Aside
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
			return &dlqError{"settle", err}
		default:
			// The events are in DataStorage. A copy that stays in the DLQ is
			// replayed and answered as a duplicate, which is better than to hold
			// new events up for a broken disk.
			s.logFailure(&dlqError{"settle", err}, 1, len(recorded))
			needed = false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	expected := -len(recorded)
	if replay {
		s.counts.Replayed += len(recorded)
	} else {
		expected = len(rejected)
		s.counts.Buffered -= len(recorded) + len(rejected)
	}
	if needed {
		s.setDepth(depth, expected)
	}
	s.counts.Committed += len(recorded)
	for _, id := range recorded {
		delete(s.held, id)
		delete(s.refused, id)
	}
	for i := range rejected {
		delete(s.held, rejected[i].Event.EventID)
	}
	return nil
}

// news returns the rejections that were not made before for the same reason. A
// rejected event is offered again and again, and people need to hear of it once.
func (s *Store) news(rejected []Rejection) []Rejection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var news []Rejection
	for _, r := range rejected {
		reason := maphash.String(reasonSeed, r.Reason)
		if known, ok := s.refused[r.Event.EventID]; ok && known == reason {
			continue
		}
		if len(s.refused) >= maxRefused {
			clear(s.refused)
		}
		s.refused[r.Event.EventID] = reason
		news = append(news, r)
		s.counts.Rejections++
		if r.Status == http.StatusConflict {
			s.counts.Conflicts++
		}
	}
	return news
}

var reasonSeed = maphash.MakeSeed()

// claim returns waiting events that are not in memory as well, and marks them
// as held. A copy in memory is left to the live batch, whose answer settles
// both. waiting is false where the DLQ has nothing to send.
func (s *Store) claim(limit int) (events []Event, waiting bool, err error) {
	// The DLQ may not be settled between the reading and the marking, or an
	// event could be counted twice.
	s.dlqMu.Lock()
	defer s.dlqMu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), dlqTimeout)
	defer cancel()
	next, depth, err := s.dlq.Next(ctx, limit)
	if err != nil {
		return nil, true, &dlqError{"read", err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setDepth(depth, 0)
	for _, e := range next {
		if _, ok := s.held[e.EventID]; !ok {
			s.held[e.EventID] = struct{}{}
			events = append(events, e)
		}
	}
	return events, depth.Waiting > 0, nil
}
