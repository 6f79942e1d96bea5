package datastorage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
)

// rowsAtOnce is how many rows one statement reads.
const rowsAtOnce = 1000

// EachRow reads the rows from one log index up to but without another, in order
// and in pages. It holds no transaction from one page to the next. After an error
// nothing follows.
func EachRow(ctx context.Context, log Evidence, from, to int64) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		for {
			page, err := readRows(ctx, log, from, to)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(page) == 0 {
				return
			}
			last := page[len(page)-1].LogIndex
			from = last + 1
			if page[0].LogIndex < last {
				// A table that has lost its primary key may have more rows of the last index.
				page, from = page[:slices.IndexFunc(page, func(row Row) bool { return row.LogIndex == last })], last
			}
			for i := range page {
				if !yield(&page[i], nil) {
					return
				}
			}
		}
	}
}

func readRows(ctx context.Context, log Evidence, from, to int64) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	page, err := log.Rows(ctx, from, to, rowsAtOnce)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return page, nil
}

// Hashes returns the leaf hash of the event's bytes, and what the column leaf_hash
// says that it is: the zero hash where that is none. Of what has expired there is
// no more than the column.
func (r *Row) Hashes() (body, column ledger.Hash) {
	if len(r.LeafHash) == len(column) {
		column = ledger.Hash(r.LeafHash)
	}
	if r.Body == nil {
		return column, column
	}
	return ledger.LeafHash(r.Body), column
}

// WrongHash says in words what was done to an event with such hashes of which the
// tree has this leaf, and is empty where nothing was.
func WrongHash(body, column, leaf ledger.Hash) string {
	switch {
	case body == leaf && column == leaf:
		return ""
	case body == leaf:
		return "its leaf_hash was changed: its bytes have the hash that the tree has"
	case column == leaf:
		return "its bytes were changed: they do not have the hash that the tree has"
	case body == column:
		return "it was rewritten together with its leaf hash, or another event was put in its place: the tree has another leaf there"
	}
	return "its bytes were changed, and its leaf_hash too"
}

// WrongColumns says in words which columns hold something else than the event, and
// is empty where none does or the event has expired. recorded_at is not part of the
// event, so that of it no more than the type is checked.
func (r *Row) WrongColumns() string {
	if r.Body == nil {
		return ""
	}
	event, err := decodeStored(r.Body)
	if err != nil {
		return err.Error()
	}
	want := [len(RowColumns)]any{
		event.EventID.String(), event.EventTimestamp.UnixMicro(), event.EventType, event.EventCategory, event.EventOutcome,
		event.CorrelationID, orNil(event.Severity), orNil(event.ResourceID), orNil(event.Namespace), "a time",
	}
	if _, ok := r.RecordedAt(); ok {
		want[len(RowColumns)-1] = r.Columns[len(RowColumns)-1]
	}
	var changed []string
	for i, name := range RowColumns {
		if r.Columns[i] != want[i] {
			changed = append(changed, fmt.Sprintf("%s holds %s where the event says %s", name, show(r.Columns[i]), show(want[i])))
		}
	}
	if recordedAt, ok := r.RecordedAt(); ok {
		if until := r.expiresAt(&event, recordedAt); r.ExpiresAt != until {
			changed = append(changed, fmt.Sprintf("expires_at holds %s where the event says %s", show(r.ExpiresAt), show(until)))
		}
	}
	if changed == nil {
		return ""
	}
	return "its columns were changed: " + strings.Join(changed, ", ")
}

// expiresAt is what the column must have where the row's bytes are this event.
func (r *Row) expiresAt(event *audit.Event, recordedAt time.Time) any {
	record := Record{Event: *event}
	if isOwn(event.EventType) {
		record.RetentionDays = Forever
	} else if bytes.Contains(r.Body, []byte(retentionDays)) {
		var own struct {
			RetentionDays int64 `json:"retention_days"`
		}
		_ = json.Unmarshal(r.Body, &own) // It was decoded before.
		record.RetentionDays = own.RetentionDays
	}
	at, says := record.ExpiresAt(recordedAt)
	switch {
	case !says:
		return nil
	case at.IsZero():
		return NeverExpires
	}
	return at.UnixMicro()
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// ID is the column event_id, for a person to read.
func (r *Row) ID() string {
	if id, ok := r.Columns[0].(string); ok {
		return id
	}
	return show(r.Columns[0])
}

// RecordedAt is the column recorded_at where it holds a time.
func (r *Row) RecordedAt() (time.Time, bool) {
	at, ok := r.Columns[len(RowColumns)-1].(int64)
	return time.UnixMicro(at).UTC(), ok
}

// show is a column's value as a person reads it.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case string:
		return fmt.Sprintf("%.60q", v)
	case int64:
		if v == NeverExpires {
			return "never"
		}
		return fmt.Sprintf("%d (%s)", v, time.UnixMicro(v).UTC().Format(time.RFC3339Nano))
	}
	return fmt.Sprintf("the %T %v", v, v)
}

// decodeStored reads an event that is stored.
func decodeStored(body []byte) (audit.Event, error) {
	// Nearly all are of the form that scanCanonical reads, but for the salt.
	before, rest, _ := bytes.Cut(body, []byte(`,"salt":"`))
	_, after, _ := bytes.Cut(rest, []byte(`",`))
	if events, ok := scanCanonical(slices.Concat([]byte(`[`), before, []byte(`,`), after, []byte(`]`))); ok && len(events) == 1 {
		return events[0], nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return audit.Event{}, errors.New("its bytes are no event: they are not a JSON object")
	}
	d := decoder{members: members}
	event := d.event()
	if d.broken != nil {
		return audit.Event{}, fmt.Errorf("its bytes are no event: %s %s", d.broken[0].Pointer, d.broken[0].Detail)
	}
	return event, nil
}

// Line is the row as an export has it: the event's exact bytes, or what remains of
// it, and within the last brace the event's place in the log.
func (r *Row) Line() []byte {
	recordedAt, _ := r.RecordedAt()
	body := r.Body
	if body == nil {
		body = r.remains()
	}
	body = bytes.TrimSuffix(body, []byte("}"))
	return appendPlace(slices.Clip(body), r.LeafHash, r.LogIndex, recordedAt)
}

// Remains is what Line is once the event has expired.
func (r *Row) Remains() []byte {
	event, err := decodeStored(r.Body)
	if err != nil {
		return r.Line()
	}
	s := Stored{Placed: Placed{LogIndex: r.LogIndex}, Columns: event}
	s.Columns.EventTimestamp = time.UnixMicro(event.EventTimestamp.UnixMicro())
	s.RecordedAt, _ = r.RecordedAt()
	copy(s.LeafHash[:], r.LeafHash)
	return s.json()
}

// remains is as that of Stored. What it makes of a column that has no type of
// this program's is not what it was.
func (r *Row) remains() []byte {
	columns := map[string]string{}
	for i, name := range RowColumns[:len(RowColumns)-1] {
		switch v := r.Columns[i].(type) {
		case string:
			columns[name] = cmp.Or(v, show(v)) // An empty one is not NULL.
		case int64:
			columns[name] = time.UnixMicro(v).UTC().Format(time.RFC3339Nano)
		case nil:
		default:
			columns[name] = show(v)
		}
	}
	return remains(columns)
}

// appendPlace ends an event that lacks its last brace with the server's members.
func appendPlace(out, leafHash []byte, index int64, recordedAt time.Time) []byte {
	return fmt.Appendf(out, `,"leaf_hash":"%s","log_index":%d,"recorded_at":"%s"}`,
		hex.EncodeToString(leafHash), index, recordedAt.UTC().Format(time.RFC3339Nano))
}

var placed = regexp.MustCompile(`^,"leaf_hash":"([0-9a-f]*)","log_index":(\d{1,18}),"recorded_at":"([^"]+)"\}$`)

// ParseLine reads the line of an event in an export, without its end. Of the
// columns it sets event_id and recorded_at. Line is of no use on what it returns.
func ParseLine(line []byte) (*Row, error) {
	at := max(bytes.LastIndex(line, []byte(`,"leaf_hash":"`)), 0)
	parts := placed.FindSubmatch(line[at:])
	if parts == nil {
		return nil, errors.New("it does not end with leaf_hash, log_index and recorded_at")
	}
	row := &Row{Body: append(slices.Clone(line[:at]), '}')}
	recordedAt, err := time.Parse(time.RFC3339Nano, string(parts[3]))
	if err != nil {
		return nil, fmt.Errorf("recorded_at: %w", err)
	}
	row.Columns[len(RowColumns)-1] = recordedAt.UnixMicro()
	if row.LeafHash, err = hex.DecodeString(string(parts[1])); err != nil {
		return nil, fmt.Errorf("leaf_hash: %w", err)
	}
	if row.LogIndex, err = strconv.ParseInt(string(parts[2]), 10, 64); err != nil {
		return nil, fmt.Errorf("log_index: %w", err)
	}
	row.Columns[0] = "it is no event"
	if event, err := decodeStored(row.Body); err == nil {
		row.Columns[0] = event.EventID.String()
	}
	// An event has no such member of its own.
	if bytes.Contains(row.Body, []byte(`,"expired":true`)) {
		if id, ok := expiredID(row.Body); ok {
			row.Columns[0], row.Body = id, nil
		}
	}
	return row, nil
}

// expiredID returns the ID of an event of which this remains, and false where it is
// another text.
func expiredID(body []byte) (string, bool) {
	var members map[string]any
	if json.Unmarshal(body, &members) != nil || members[expiredMember] != true {
		return "", false
	}
	id, _ := members["event_id"].(string)
	return id, true
}
