package datastorage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gowebpki/jcs"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
)

// Events that the log records of itself. They never expire, and nobody else may
// add any, since what they say excuses what is missing.
const (
	ownPrefix        = "datastorage."
	ownCategory      = "datastorage"
	typeExpired      = ownPrefix + "events.expired"
	typeHoldPlaced   = ownPrefix + "hold.placed"
	typeHoldReleased = ownPrefix + "hold.released"
)

func isOwn(eventType string) bool { return strings.HasPrefix(eventType, ownPrefix) }

// ownCorrelationID is that of what the log records of its own doing.
const ownCorrelationID = "retention"

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
	total, sweep := 0, newSweep(l.now(), days)
	for {
		n, err := l.expire(ctx, sweep)
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
	reclaiming, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := l.writer.Reclaim(reclaiming, l.now()); err != nil && ctx.Err() == nil {
		l.log.Error(err, "Giving back the space of what has expired failed; it is tried again in an hour")
	}
	return nil
}

// Expire removes the bodies of some events that have expired, and returns of how
// many; 0 means that there are no more. The log has an event about it.
func (l *Log) Expire(ctx context.Context, now time.Time, days int64) (int, error) {
	return l.expire(ctx, newSweep(now, days))
}

func (l *Log) expire(ctx context.Context, sweep *Sweep) (int, error) {
	n := 0
	err := l.change(ctx, func(ctx context.Context, known Known, add *Addition) ([]Record, error) {
		expired, err := known.Tx.Expirable(ctx, sweep, expireAtOnce)
		if n = len(expired); err != nil || n == 0 {
			return nil, err
		}
		add.Expired = expired
		data, err := json.Marshal(expiryOf(expired))
		if err != nil {
			return nil, err
		}
		// An ID that can be foretold could be taken by a client before.
		record, err := l.ownRecord(uuid.Must(uuid.NewRandom()), audit.Event{
			EventType: typeExpired, EventTimestamp: add.RecordedAt, EventAction: "expired",
			ActorType: "service", ActorID: "datastorage", ResourceType: "AuditLog", CorrelationID: ownCorrelationID, EventData: data,
		})
		return []Record{record}, err
	})
	if err != nil {
		return 0, fmt.Errorf("expire events: %w", err)
	}
	return n, nil
}

// wrongColumns is as WrongColumns of a Row, where body is what the event's bytes are.
// When it expires is for Sweep to say.
func (s *Stored) wrongColumns(body []byte) string {
	e := &s.Columns
	row := Row{Body: body, Columns: [...]any{
		e.EventID.String(), e.EventTimestamp.UnixMicro(), e.EventType, e.EventCategory, e.EventOutcome,
		e.CorrelationID, orNil(e.Severity), orNil(e.ResourceID), orNil(e.Namespace), s.RecordedAt.UnixMicro(),
	}}
	row.ExpiresAt = row.expiresAt(e, s.RecordedAt)
	return row.WrongColumns()
}

// retainedSince is from when on an event's time is counted. No hash covers when it
// was recorded, so that it is no earlier than the event itself says.
func retainedSince(e *audit.Event, recordedAt time.Time) time.Time {
	if e.EventTimestamp.After(recordedAt) {
		return e.EventTimestamp
	}
	return recordedAt
}

// Expiry is the event_data of an event of type datastorage.events.expired: which
// events have lost their bodies, as ranges of log indices, first and last, and of
// each in this order the beginning of the hash of what remains of it, so that this
// cannot be changed either.
type Expiry struct {
	LogIndex   int64      `json:"-"` // of the event itself
	Count      int        `json:"count"`
	LogIndices [][2]int64 `json:"log_indices"`
	Remains    []byte     `json:"remains"`
}

// remainsBytes is how much of a hash nobody can make other columns to.
const remainsBytes = 16

// Covers reports whether the event at an index is one of them.
func (e *Expiry) Covers(index int64) bool {
	at, _ := slices.BinarySearchFunc(e.LogIndices, index, func(r [2]int64, index int64) int { return cmp.Compare(r[1], index) })
	return at < len(e.LogIndices) && e.LogIndices[at][0] <= index
}

// WrongRemains says in words that what remains of one of the events, the row without
// its bytes as a Line, is not what remained of it, and is empty where it is.
func (e *Expiry) WrongRemains(index int64, line []byte) string {
	before := int64(0)
	for _, r := range e.LogIndices {
		if index <= r[1] {
			before += index - r[0]
			break
		}
		before += r[1] - r[0] + 1
	}
	hash := ledger.LeafHash(line)
	if all := int64(len(e.Remains) / remainsBytes); 0 <= before && before < all && bytes.Equal(e.Remains[before*remainsBytes:][:remainsBytes], hash[:remainsBytes]) {
		return ""
	}
	return fmt.Sprintf("its columns were changed: they are not those that it had when it expired, as event %d shows", e.LogIndex)
}

// Expiries returns what the log says of what has expired, newest first, with the
// log index of who says so.
func Expiries(ctx context.Context, log Reader) iter.Seq2[Expiry, error] {
	return func(yield func(Expiry, error) bool) {
		for stored, err := range Matching(ctx, log, map[string]string{"correlation_id": ownCorrelationID, "event_type": typeExpired}) {
			if err != nil {
				yield(Expiry{}, err)
				return
			}
			e, ok := ParseExpiry(stored.Body)
			if e.LogIndex = stored.LogIndex; ok && !yield(e, nil) {
				return
			}
		}
	}
}

// Matching returns the events of which columns have values, newest first and in
// pages. After an error nothing follows.
func Matching(ctx context.Context, log Reader, equal map[string]string) iter.Seq2[*Stored, error] {
	return func(yield func(*Stored, error) bool) {
		filter := Filter{Equal: equal, Limit: maxLimit}
		for {
			page, err := queryPage(ctx, log, filter)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Events {
				if !yield(&page.Events[i], nil) {
					return
				}
			}
			if page.Next == nil {
				return
			}
			filter.After = page.Next
		}
	}
}

func queryPage(ctx context.Context, log Reader, filter Filter) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	page, err := log.Query(ctx, filter)
	if err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	return page, nil
}

// ParseExpiry reads an event of type datastorage.events.expired, without LogIndex,
// and returns false where the event is another one.
func ParseExpiry(event []byte) (Expiry, bool) {
	var body struct {
		EventType string `json:"event_type"`
		EventData Expiry `json:"event_data"`
	}
	err := json.Unmarshal(event, &body)
	return body.EventData, err == nil && body.EventType == typeExpired
}

// ParseHold reads an event by which a hold was placed, or else released, and
// returns false where the event is another one.
func ParseHold(event []byte) (hold Hold, placed, ok bool) {
	var body struct {
		audit.Event
		EventData struct {
			Reason string `json:"reason"`
		} `json:"event_data"`
	}
	if json.Unmarshal(event, &body) != nil || body.EventType != typeHoldPlaced && body.EventType != typeHoldReleased {
		return Hold{}, false, false
	}
	hold = Hold{CorrelationID: body.CorrelationID, Reason: body.EventData.Reason, PlacedBy: body.ActorID, PlacedAt: body.EventTimestamp}
	return hold, body.EventType == typeHoldPlaced, true
}

func expiryOf(expired []Stored) Expiry {
	e := Expiry{Count: len(expired)}
	for i := range expired {
		hash := ledger.LeafHash(expired[i].json())
		e.Remains = append(e.Remains, hash[:remainsBytes]...)
		index, last := expired[i].LogIndex, len(e.LogIndices)-1
		if last >= 0 && e.LogIndices[last][1] == index-1 {
			e.LogIndices[last][1]++
			continue
		}
		e.LogIndices = append(e.LogIndices, [2]int64{index, index})
	}
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
	e := &s.Columns
	return remains(map[string]string{
		"event_id": e.EventID.String(), "event_timestamp": e.EventTimestamp.UTC().Format(time.RFC3339Nano),
		"event_type": e.EventType, "event_category": e.EventCategory, "event_outcome": e.EventOutcome,
		"correlation_id": e.CorrelationID, "severity": e.Severity, "resource_id": e.ResourceID, "namespace": e.Namespace,
	})
}

func remains(columns map[string]string) []byte {
	members := map[string]any{expiredMember: true, "event_data": struct{}{}}
	for name, value := range columns {
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

// expiredMember marks what remains of an event.
const expiredMember = "expired"

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
