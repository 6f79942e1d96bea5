package datastorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/gowebpki/jcs"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
)

// Events that the log records of itself. They never expire.
const (
	ownCategory      = "datastorage"
	typeExpired      = "datastorage.events.expired"
	typeHoldPlaced   = "datastorage.hold.placed"
	typeHoldReleased = "datastorage.hold.released"
)

const (
	// expireAtOnce is how many events expire in one transaction, beside which
	// nothing is appended.
	expireAtOnce = 1000
	// expireEvery is how often events are looked for that have expired.
	expireEvery = time.Hour
	// maxRetentionDays keeps a sum of time and days a time that databases know.
	maxRetentionDays = 36_500
)

// retain lets events expire until ctx ends: those that say how long they are to
// be kept, and the others after days, unless that is 0.
func (l *Log) retain(ctx context.Context, days int64) {
	ticker := time.NewTicker(expireEvery)
	defer ticker.Stop()
	for {
		if err := l.expireAll(ctx, days); err != nil && ctx.Err() == nil {
			l.log.Error(err, "Removing what has expired failed; it is tried again in an hour")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (l *Log) expireAll(ctx context.Context, days int64) error {
	total := 0
	for {
		n, err := l.Expire(ctx, time.Now(), days)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		total += n
	}
	if total > 0 {
		l.log.Info("Events have expired; their places and hashes in the log remain", "events", total)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return l.writer.Reclaim(ctx, time.Now())
}

// Expire removes the bodies of some events that have expired, and returns of how
// many; 0 means that there are no more. The log has an event about it.
func (l *Log) Expire(ctx context.Context, now time.Time, days int64) (int, error) {
	var policy time.Time
	if days > 0 {
		policy = now.AddDate(0, 0, -int(days))
	}
	n := 0
	err := l.change(ctx, func(ctx context.Context, known Known, add *Addition) ([]Record, error) {
		expired, err := known.Tx.Expirable(ctx, now, policy, expireAtOnce)
		if n = len(expired); err != nil || n == 0 {
			return nil, err
		}
		add.Expired = expired
		data, err := json.Marshal(expiryOf(expired))
		if err != nil {
			return nil, err
		}
		// Each event expires once, so the first of them makes the ID.
		record, err := l.ownRecord(audit.EventID(typeExpired, fmt.Sprint(expired[0].LogIndex)), audit.Event{
			EventType: typeExpired, EventTimestamp: add.RecordedAt, EventAction: "expired",
			ActorType: "service", ActorID: "datastorage", ResourceType: "AuditLog", CorrelationID: "retention", EventData: data,
		})
		return []Record{record}, err
	})
	if err != nil {
		return 0, fmt.Errorf("expire events: %w", err)
	}
	return n, nil
}

// Expiry is the event_data of an event of type datastorage.events.expired: which
// events have lost their bodies, as ranges of log indices, first and last, and
// the root of the RFC 6962 tree over what remains of each, so that this cannot be
// changed either.
type Expiry struct {
	Count       int         `json:"count"`
	LogIndices  [][2]int64  `json:"log_indices"`
	RemainsRoot ledger.Hash `json:"remains_root"`
}

func expiryOf(expired []Stored) Expiry {
	e := Expiry{Count: len(expired)}
	tree := &ledger.Tree{}
	for i := range expired {
		remains := expired[i]
		remains.Body = nil
		tree.Append(ledger.LeafHash(remains.json()))
		last := len(e.LogIndices) - 1
		if last >= 0 && e.LogIndices[last][1] == remains.LogIndex-1 {
			e.LogIndices[last][1]++
			continue
		}
		e.LogIndices = append(e.LogIndices, [2]int64{remains.LogIndex, remains.LogIndex})
	}
	e.RemainsRoot = tree.Root()
	return e
}

// ownRecord makes the record of an event that DataStorage itself records.
func (l *Log) ownRecord(id uuid.UUID, e audit.Event) (Record, error) {
	e.EventID, e.Version, e.EventCategory, e.EventOutcome, e.Salt = id, "1.0", ownCategory, audit.OutcomeSuccess, l.salt(id)
	data, err := jcs.Transform(e.EventData)
	if err != nil {
		return Record{}, fmt.Errorf("encode event: %w", err)
	}
	e.EventData = data
	record := NewRecord(e, e.Append(nil))
	record.RetentionDays = Forever
	return record, nil
}

// remains is the event as it is shown once its body has expired.
func (s *Stored) remains() []byte {
	members := map[string]any{"expired": true, "event_data": struct{}{}}
	for name, value := range map[string]string{
		"event_id": s.Columns.EventID.String(), "event_timestamp": s.Columns.EventTimestamp.UTC().Format(time.RFC3339Nano),
		"event_type": s.Columns.EventType, "event_category": s.Columns.EventCategory, "event_outcome": s.Columns.EventOutcome,
		"correlation_id": s.Columns.CorrelationID, "severity": s.Columns.Severity, "resource_id": s.Columns.ResourceID,
		"namespace": s.Columns.Namespace,
	} {
		if value != "" {
			members[name] = value
		}
	}
	text, err := json.Marshal(members)
	if err == nil {
		text, err = jcs.Transform(text)
	}
	if err != nil {
		panic(err) // Strings always have a form.
	}
	return text
}

// ErrHeld and ErrNotHeld say that a hold is as it was asked to be.
var (
	ErrHeld    = errors.New("the correlation ID is held already")
	ErrNotHeld = errors.New("the correlation ID is not held")
)

// PlaceHold keeps all events of a correlation ID from expiring. It returns the
// hold that there is, and ErrHeld where there was one.
func (l *Log) PlaceHold(ctx context.Context, hold Hold) (Hold, error) {
	err := l.change(ctx, func(ctx context.Context, known Known, add *Addition) ([]Record, error) {
		old, held, err := known.Tx.Hold(ctx, hold.CorrelationID)
		switch {
		case err != nil:
			return nil, err
		case held:
			hold = old
			return nil, ErrHeld
		}
		hold.PlacedAt = add.RecordedAt
		add.Placed = &hold
		return l.holdRecord(typeHoldPlaced, "placed", hold, add.RecordedAt, map[string]string{"reason": hold.Reason})
	})
	return hold, err
}

// ReleaseHold ends a hold, in the name of whoever says so. It returns ErrNotHeld
// where there is none.
func (l *Log) ReleaseHold(ctx context.Context, correlationID, by string) error {
	return l.change(ctx, func(ctx context.Context, known Known, add *Addition) ([]Record, error) {
		hold, held, err := known.Tx.Hold(ctx, correlationID)
		switch {
		case err != nil:
			return nil, err
		case !held:
			return nil, ErrNotHeld
		}
		add.Released = correlationID
		data := map[string]string{"placed_by": hold.PlacedBy, "reason": hold.Reason}
		hold.PlacedBy = by
		return l.holdRecord(typeHoldReleased, "released", hold, add.RecordedAt, data)
	})
}

func (l *Log) holdRecord(eventType, action string, hold Hold, at time.Time, data map[string]string) ([]Record, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	// The same hold may be placed again after it was released: each is a fact.
	record, err := l.ownRecord(uuid.Must(uuid.NewV7()), audit.Event{
		EventType: eventType, EventTimestamp: at, EventAction: action,
		ActorType: "user", ActorID: hold.PlacedBy, ResourceType: "LegalHold", CorrelationID: hold.CorrelationID, EventData: text,
	})
	return []Record{record}, err
}
