package datastorage

import (
	"encoding/json"
	"fmt"
	"time"

	"kubernaut.ai/notification/internal/ledger"
)

// Sweep is a search for events whose bodies may go: those whose own time has come by
// Now, and those recorded until Policy that have none. A zero Policy is none.
type Sweep struct {
	Now, Policy time.Time

	// How far the search has come: among the first until when they are kept, and among
	// the others when they were recorded or where they are in the log, as the database
	// finds them. What is before has expired or is held, and to pass it again for each
	// transaction would keep all who write waiting.
	Until    time.Time
	Recorded time.Time
	LogIndex int64
}

func newSweep(now time.Time, days int64) *Sweep {
	sweep := &Sweep{Now: now}
	if days > 0 {
		sweep.Policy = now.AddDate(0, 0, -int(days))
	}
	return sweep
}

// Found moves the sweep on to an event. It returns an error that is ErrTampered
// unless the event has the body that it was recorded with, and this may go: its
// absence must not hide that it was changed, and nobody else than its sender says how
// long it is kept.
func (w *Sweep) Found(s *Stored, body []byte) error {
	var own struct {
		RetentionDays int64 `json:"retention_days"`
	}
	if ledger.LeafHash(body) != s.LeafHash || json.Unmarshal(body, &own) != nil || s.wrongColumns(body) != "" {
		return fmt.Errorf("%w: event %d was changed, so nothing expires", ErrTampered, s.LogIndex)
	}
	since := retainedSince(&s.Columns, s.RecordedAt)
	until := since.AddDate(0, 0, int(own.RetentionDays))
	if isOwn(s.Columns.EventType) || own.RetentionDays == 0 && (w.Policy.IsZero() || since.After(w.Policy)) || own.RetentionDays > 0 && until.After(w.Now) {
		return fmt.Errorf("%w: event %d is to be kept and its row says otherwise, so nothing expires", ErrTampered, s.LogIndex)
	}
	switch {
	case own.RetentionDays == 0:
		w.LogIndex = max(w.LogIndex, s.LogIndex)
		if s.RecordedAt.After(w.Recorded) {
			w.Recorded = s.RecordedAt
		}
	case until.After(w.Until):
		w.Until = until
	}
	return nil
}
