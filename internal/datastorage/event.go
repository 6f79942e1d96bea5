package datastorage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/gowebpki/jcs"

	"kubernaut.ai/notification/internal/audit"
)

const (
	maxBatchEvents = 1000
	maxBodyBytes   = 5 << 20
)

// serverMembers are added to an event when it is read. An event that brought
// them along could not be told from one that was read.
var serverMembers = []string{expiredMember, "leaf_hash", "log_index", "recorded_at", "salt"}

const retentionDays = "retention_days"

// ownMembers are the names that mean something: those of audit.Event, the time to
// keep it, and those that the server adds.
var ownMembers = func() []string {
	names := append(slices.Clone(serverMembers), retentionDays)
	for field := range reflect.TypeFor[audit.Event]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}()

// salter returns the salt of an event, always the same.
type salter func(eventID uuid.UUID) string

// parseBatch returns the records of a JSON array of events, or the problem to
// answer with.
func parseBatch(body []byte, salt salter) ([]Record, *Problem) {
	if records, ok := parseCanonical(body, salt); ok {
		return records, nil
	}
	// An array has no place for more elements, of which a body may have millions.
	var found [maxBatchEvents + 1]json.RawMessage
	if p := decodeBody(body, &found); p != nil {
		return nil, p
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		return nil, problem(invalidRequest, fmt.Sprintf("the body must be a JSON array of 1 to %d events", maxBatchEvents))
	}
	if found[0] == nil {
		return nil, problem(invalidRequest, fmt.Sprintf("the batch is empty; it must have 1 to %d events", maxBatchEvents))
	}
	if found[maxBatchEvents] != nil {
		return nil, problem(tooLarge, fmt.Sprintf("the batch has more events than the %d that are allowed", maxBatchEvents))
	}
	elements := found[:slices.IndexFunc(found[:], func(e json.RawMessage) bool { return e == nil })]
	records := make([]Record, len(elements))
	var broken []ProblemItem
	rejected := 0
	for i, raw := range elements {
		record, violations := parseEvent(raw, salt)
		if violations != nil {
			rejected++
		}
		for _, v := range violations {
			broken = append(broken, ProblemItem{Pointer: "/" + strconv.Itoa(i) + v.Pointer, Detail: v.Detail})
		}
		records[i] = record
	}
	if broken != nil {
		return nil, invalidEvents(rejected, broken)
	}
	return records, nil
}

// parseCanonical returns the records of a batch that needs no other look: it is
// how the manager sends its events.
func parseCanonical(body []byte, salt salter) ([]Record, bool) {
	events, ok := scanCanonical(body)
	if !ok {
		return nil, false
	}
	records := make([]Record, len(events))
	for i := range events {
		e := &events[i]
		if e.Validate() != nil || isOwn(e.EventType) {
			return nil, false
		}
		e.Salt = salt(e.EventID)
		records[i] = NewRecord(*e, e.Append(make([]byte, 0, e.Size())))
	}
	return records, true
}

// parseSingle returns the record of one event, or the problem to answer with.
func parseSingle(body []byte, salt salter) ([]Record, *Problem) {
	var raw json.RawMessage
	if p := decodeBody(body, &raw); p != nil {
		return nil, p
	}
	record, violations := parseEvent(raw, salt)
	if violations == nil {
		return []Record{record}, nil
	}
	broken := make([]ProblemItem, len(violations))
	for i, v := range violations {
		broken[i] = ProblemItem{Pointer: v.Pointer, Detail: v.Detail}
	}
	return nil, invalidEvents(1, broken)
}

// decodeBody decodes UTF-8 JSON; v is left alone where the JSON is of another type.
func decodeBody(body []byte, v any) *Problem {
	if !utf8.Valid(body) {
		at := 0
		for at < len(body) {
			r, size := utf8.DecodeRune(body[at:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			at += size
		}
		return problem(invalidRequest, fmt.Sprintf("the body is not UTF-8: invalid byte at offset %d", at))
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, v); errors.As(err, &syntax) {
		return problem(invalidRequest, fmt.Sprintf("the body is not JSON: %s at byte offset %d", syntax, syntax.Offset))
	}
	return nil
}

// parseEvent returns the record of an event in valid JSON. One without an ID gets
// one.
func parseEvent(raw []byte, salt salter) (Record, []audit.Violation) {
	if v := checkEvent(raw); v != nil {
		return Record{}, []audit.Violation{*v}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return Record{}, []audit.Violation{{Pointer: "", Detail: "must be a JSON object"}}
	}
	d := decoder{members: members}
	event := d.event()
	if d.absent("event_id") {
		event.EventID = uuid.Must(uuid.NewV7())
		members["event_id"] = json.RawMessage(strconv.Quote(event.EventID.String()))
	}
	for _, name := range serverMembers {
		if _, sent := members[name]; sent {
			d.fail(name, "is set by the server; leave it out")
		}
	}
	days := d.integer(retentionDays)
	if days != nil && !d.failed("/"+retentionDays) && (*days < 1 || *days > maxRetentionDays) {
		d.fail(retentionDays, fmt.Sprintf("must be a number of days from 1 to %d", maxRetentionDays))
	}
	if isOwn(event.EventType) {
		d.fail("event_type", fmt.Sprintf("must not begin with %q, as do the events that the server records of itself", ownPrefix))
	}
	d.refuseLookalikes()
	for _, v := range event.Validate() {
		if !d.failed(v.Pointer) {
			d.broken = append(d.broken, v)
		}
	}
	if d.broken != nil {
		return Record{}, d.broken
	}
	// It refuses members that are there twice, of which the map has one.
	if _, err := jcs.Transform(raw); err != nil {
		return Record{}, []audit.Violation{{Pointer: "", Detail: "has no canonical JSON form: " + err.Error()}}
	}
	event.Salt = salt(event.EventID)
	members["salt"] = json.RawMessage(strconv.Quote(event.Salt))
	body, err := json.Marshal(members)
	if err == nil {
		body, err = jcs.Transform(body)
	}
	if err != nil {
		return Record{}, []audit.Violation{{Pointer: "", Detail: "has no canonical JSON form: " + err.Error()}}
	}
	record := NewRecord(event, body)
	if days != nil {
		record.RetentionDays = *days
	}
	return record, nil
}

// decoder reads the known members of an event by their exact names and collects
// those of a wrong type. A null counts as absent.
type decoder struct {
	members map[string]json.RawMessage
	broken  []audit.Violation
}

func (d *decoder) event() audit.Event {
	return audit.Event{
		EventID:        d.uuid("event_id"),
		Version:        d.text("version"),
		EventType:      d.text("event_type"),
		EventTimestamp: d.time("event_timestamp"),
		EventCategory:  d.text("event_category"),
		EventAction:    d.text("event_action"),
		EventOutcome:   d.text("event_outcome"),
		ActorType:      d.text("actor_type"),
		ActorID:        d.text("actor_id"),
		ResourceType:   d.text("resource_type"),
		ResourceID:     d.text("resource_id"),
		CorrelationID:  d.text("correlation_id"),
		Namespace:      d.text("namespace"),
		ClusterID:      d.text("cluster_id"),
		Severity:       d.text("severity"),
		DurationMS:     d.integer("duration_ms"),
		ErrorCode:      d.text("error_code"),
		ErrorMessage:   d.text("error_message"),
		ParentEventID:  d.optionalUUID("parent_event_id"),
		EventData:      d.members["event_data"],
	}
}

// refuseLookalikes fails members that common JSON readers, which match names
// without regard to case, would take for one of ownMembers.
func (d *decoder) refuseLookalikes() {
	for _, name := range slices.Sorted(maps.Keys(d.members)) {
		if slices.Contains(ownMembers, name) {
			continue
		}
		for _, own := range ownMembers {
			if strings.EqualFold(name, own) {
				d.fail(name, fmt.Sprintf("differs from %q in nothing but case; rename it or leave it out", own))
			}
		}
	}
}

func (d *decoder) fail(name, detail string) {
	d.broken = append(d.broken, audit.Violation{Pointer: "/" + name, Detail: detail})
}

func (d *decoder) failed(pointer string) bool {
	return slices.ContainsFunc(d.broken, func(v audit.Violation) bool { return v.Pointer == pointer })
}

func (d *decoder) absent(name string) bool {
	raw, sent := d.members[name]
	return !sent || string(raw) == "null"
}

func (d *decoder) text(name string) string {
	if d.absent(name) {
		return ""
	}
	raw := d.members[name]
	// Nearly every text is without escapes, and then it needs no decoding.
	if raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		d.fail(name, "must be a string")
	}
	return s
}

func (d *decoder) integer(name string) *int64 {
	if d.absent(name) {
		return nil
	}
	var n int64
	if json.Unmarshal(d.members[name], &n) != nil {
		d.fail(name, "must be an integer")
	}
	return &n
}

func (d *decoder) time(name string) time.Time {
	var t time.Time
	if !d.absent(name) && t.UnmarshalJSON(d.members[name]) != nil {
		d.fail(name, "must be an RFC 3339 time, such as 2026-01-02T15:04:05.000001Z")
	}
	return t
}

func (d *decoder) uuid(name string) uuid.UUID {
	s := d.text(name)
	if d.absent(name) || d.failed("/"+name) {
		return uuid.Nil
	}
	id, ok := parseUUID(s)
	if !ok {
		d.fail(name, "must be a UUID such as 123e4567-e89b-42d3-a456-426614174000")
	}
	return id
}

func (d *decoder) optionalUUID(name string) *uuid.UUID {
	if id := d.uuid(name); id != uuid.Nil {
		return &id
	}
	return nil
}

// parseUUID accepts the 36-character form alone, so that an ID looks the same
// in the event, in the database and in a query.
func parseUUID(s string) (uuid.UUID, bool) {
	id, err := uuid.Parse(s)
	return id, err == nil && len(s) == 36
}
