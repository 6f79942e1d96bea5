package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Poster sends one batch in one request and never repeats it. Any 2xx is a nil
// error; every other answer is a *PostError; other errors mean that there was
// no answer.
type Poster interface {
	Post(ctx context.Context, events []Event) (Ack, error)
}

// Ack is DataStorage's word that it holds a batch.
type Ack struct {
	LogIndices []int64 // one for each event, or nil where the answer did not say
	Duplicates int     // events that it held already
	Checkpoint string  // signed, of the log that holds them; empty where the answer did not say
}

// PostError is an answer other than 2xx.
type PostError struct {
	Status     int
	Kind       string // the last part of a problem's type, such as not-found
	Reason     string
	RetryAfter time.Duration // 0 where the answer did not say
	Faults     []Fault       // the events that the answer points at
	// Foreign says that the answer is no problem document, and so of somebody
	// between here and DataStorage, who knows nothing of the events.
	Foreign bool
}

func (e *PostError) Error() string {
	return fmt.Sprintf("DataStorage answered %d: %s", e.Status, e.Reason)
}

// Fault is what is wrong with one event of a batch.
type Fault struct {
	Index  int // of the event in the batch
	Detail string
	Stored *Stored // what DataStorage holds under the event's ID, in a 409
}

// Stored is an event that DataStorage holds: its place in the log and its facts.
type Stored struct {
	LogIndex int64
	Facts    Facts
}

// Facts are what two builds of one event must agree on, whatever else of it a
// newer program or another flag has changed. DataStorage answers a conflict with
// those of the event that it holds.
type Facts struct {
	EventType       string `json:"event_type"`
	NotificationUID string `json:"notification_uid,omitempty"`
	Channel         string `json:"channel,omitempty"`
	Attempt         int    `json:"attempt,omitempty"`
	ContentDigest   string `json:"content_digest,omitempty"`
}

// agree reports whether the stored event states the same as e.
func (f Facts) agree(e *Event) bool {
	var own Facts
	if err := json.Unmarshal(e.EventData, &own); err != nil {
		return false
	}
	own.EventType = e.EventType
	return own.NotificationUID != "" && own == f
}

// verdict is what one answer says about each event of a batch.
type verdict struct {
	decided  []Event // those that are recorded or rejected
	recorded []Receipt
	rejected []Rejection
	again    [][]Event // batches to be sent at once
}

// judge reads an answer. It returns err itself where that may pass with time,
// which says nothing about the events.
func judge(batch []Event, ack Ack, err error, now time.Time) (verdict, error) {
	if err == nil {
		v := verdict{decided: batch, recorded: make([]Receipt, len(batch))}
		for i := range batch {
			v.recorded[i] = receipt(&batch[i], now)
			if ack.LogIndices != nil {
				v.recorded[i].LogIndex = new(ack.LogIndices[i])
			}
		}
		return v, nil
	}
	answer, ok := errors.AsType[*PostError](err)
	if !ok {
		return verdict{}, err
	}
	if answer.Foreign && (answer.Status != http.StatusRequestEntityTooLarge || len(batch) == 1) {
		return verdict{}, err
	}
	switch answer.Status {
	case http.StatusRequestEntityTooLarge:
		return halve(batch, answer), nil
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		if len(answer.Faults) == 0 {
			return halve(batch, answer), nil
		}
		return sortOut(batch, answer, now), nil
	}
	return verdict{}, err
}

func halve(batch []Event, answer *PostError) verdict {
	if len(batch) == 1 {
		return verdict{decided: batch, rejected: []Rejection{{Event: batch[0], Status: answer.Status, Reason: answer.Reason}}}
	}
	half := len(batch) / 2
	return verdict{again: [][]Event{batch[:half], batch[half:]}}
}

// sortOut parts the events that the answer points at from the others.
func sortOut(batch []Event, answer *PostError, now time.Time) verdict {
	faults := make(map[int]Fault, len(answer.Faults))
	for _, f := range answer.Faults {
		if first, ok := faults[f.Index]; ok {
			first.Detail += "; " + f.Detail
			f = first
		}
		faults[f.Index] = f
	}
	var v verdict
	var rest []Event
	for i := range batch {
		e := &batch[i]
		fault, pointed := faults[i]
		if !pointed {
			rest = append(rest, *e)
			continue
		}
		v.decided = append(v.decided, *e)
		switch {
		case answer.Status == http.StatusConflict && fault.Stored != nil && fault.Stored.Facts.agree(e):
			r := receipt(e, now)
			r.LogIndex = new(fault.Stored.LogIndex)
			v.recorded = append(v.recorded, r)
		default:
			v.rejected = append(v.rejected, Rejection{Event: *e, Status: answer.Status, Reason: fault.Detail})
		}
	}
	if len(rest) > 0 {
		v.again = [][]Event{rest}
	}
	return v
}

func receipt(e *Event, now time.Time) Receipt {
	return Receipt{EventID: e.EventID, Namespace: e.Namespace, ResourceID: e.ResourceID, Recorded: true, Time: now}
}

// deliver sends events until each is recorded or rejected, and says so. Of the
// events that are left, each has met a failure that may pass: the error is one
// of theirs.
func (s *Store) deliver(events []Event, replay bool) (left []Event, err error) {
	batches := [][]Event{events}
	for len(batches) > 0 {
		batch := batches[0]
		start := time.Now()
		ack, failure := s.poster.Post(s.posting, batch)
		now := time.Now()
		s.metrics.observe(len(batch), now.Sub(start), failure)
		v, failure := judge(batch, ack, failure, now)
		if seen, ok := s.witness.observe(ack); ok {
			root := seen.Root.String()
			for i := range v.recorded {
				v.recorded[i].LogSize, v.recorded[i].LogRoot = seen.Size, root
			}
		}
		if failure != nil {
			return slices.Concat(left, slices.Concat(batches...)), failure
		}
		s.answered()
		batches = slices.Concat(v.again, batches[1:])
		if failure := s.conclude(v, ack.Duplicates, replay); failure != nil {
			// It is the DLQ's, and no reason for the other events to wait.
			left, err = append(left, v.decided...), failure
		}
	}
	return left, err
}

// conclude accounts for a verdict and tells whoever waits for it.
func (s *Store) conclude(v verdict, duplicates int, replay bool) error {
	if len(v.decided) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(v.recorded))
	for i := range v.recorded {
		ids[i] = v.recorded[i].EventID
	}
	if err := s.settle(ids, v.rejected, replay); err != nil {
		return err
	}
	s.mu.Lock()
	s.counts.Duplicates += duplicates
	s.mu.Unlock()
	if news := s.news(v.rejected); len(news) > 0 {
		first := news[0]
		s.log.Error(nil, "DataStorage rejected audit events", "events", len(news), "eventID", first.Event.EventID,
			"status", first.Status, "reason", first.Reason)
	}
	receipts := v.recorded
	for i := range v.rejected {
		r := receipt(&v.rejected[i].Event, time.Now())
		r.Recorded, r.Reason = false, v.rejected[i].Reason
		receipts = append(receipts, r)
	}
	s.tell(receipts)
	return nil
}

func (s *Store) tell(receipts []Receipt) {
	if s.onReceipts != nil {
		s.onReceipts(receipts)
	}
}
