package verify

import (
	"cmp"
	"encoding/json"
	"slices"

	"kubernaut.ai/notification/internal/datastorage"
)

// expired holds the events that have no bytes any more to what the log says about
// that. What it says is known before the events are gone through, and is among
// what is verified then.
type expired struct {
	report *report
	ranges []expiredRange // by index
	said   map[int64]bool // log indices of who says so
	holds  holds
	// more adds what the log says by now; nil where that stays what it is.
	more func() error
}

type expiredRange struct {
	first, last int64
	of          *datastorage.Expiry
}

// add takes what an event says, once.
func (x *expired) add(e datastorage.Expiry) {
	if x.said[e.LogIndex] {
		return
	}
	x.said[e.LogIndex] = true
	for _, r := range e.LogIndices {
		x.ranges = append(x.ranges, expiredRange{r[0], r[1], &e})
	}
}

// ready is called between add and row.
func (x *expired) ready() {
	slices.SortFunc(x.ranges, func(a, b expiredRange) int { return cmp.Compare(a.first, b.first) })
}

// note takes what an event says of what has expired, or of a hold.
func (x *expired) note(index int64, body []byte) {
	x.holds.note(index, body)
	if said, ok := datastorage.ParseExpiry(body); ok {
		said.LogIndex = index
		x.add(said)
	}
}

// of returns what says that the event at an index has expired, or nil.
func (x *expired) of(index int64) *datastorage.Expiry {
	at, _ := slices.BinarySearchFunc(x.ranges, index, func(r expiredRange, index int64) int { return cmp.Compare(r.last, index) })
	if at < len(x.ranges) && x.ranges[at].first <= index {
		return x.ranges[at].of
	}
	return nil
}

// stored takes note of an event in a database.
func (x *expired) stored(row *datastorage.Row) error {
	said := x.of(row.LogIndex)
	if said == nil && row.Body == nil {
		if err := x.more(); err != nil { // It may have expired a moment ago.
			return err
		}
		said = x.of(row.LogIndex)
	}
	if said != nil && row.Body != nil {
		x.report.addEvent(row.LogIndex, row.ID(), "it is there again, and event %d says that it has expired", said.LogIndex)
		return nil
	}
	x.holds.note(row.LogIndex, row.Body)
	x.row(row, said, row.Line)
	return nil
}

// exported takes note of an event in an export, which may be older than the part
// that says that the event has expired.
func (x *expired) exported(row *datastorage.Row, line []byte) {
	if body, column := row.Hashes(); body != column {
		return // Nobody knows what remains of it.
	}
	said := x.of(row.LogIndex)
	if said != nil && len(x.holds) > 0 {
		x.held(row.LogIndex, row.ID(), correlationID(line), said)
	}
	x.row(row, said, func() []byte {
		if row.Body != nil {
			return row.Remains()
		}
		return line
	})
}

// correlationID is that of an event in an export.
func correlationID(line []byte) string {
	var event struct {
		CorrelationID string `json:"correlation_id"`
	}
	_ = json.Unmarshal(line, &event) // What is no event is a finding by itself.
	return event.CorrelationID
}

func (x *expired) row(row *datastorage.Row, said *datastorage.Expiry, line func() []byte) {
	if said == nil {
		if row.Body == nil {
			x.report.addEvent(row.LogIndex, row.ID(), "its bytes were deleted, or its recorded_at was changed: no event says that it has expired")
		}
		return
	}
	if wrong := said.WrongRemains(row.LogIndex, line()); wrong != "" {
		x.report.addEvent(row.LogIndex, row.ID(), "%s", wrong)
	}
	if row.Body == nil {
		x.report.expired++
	}
}

// finish looks for events that are said to have expired more than once.
func (x *expired) finish() {
	for i := 1; i < len(x.ranges); i++ {
		if a, b := x.ranges[i-1], x.ranges[i]; b.first <= a.last {
			x.report.add(b.first, "the events %d and %d both say that event %d has expired: its bytes were put back between them", min(a.of.LogIndex, b.of.LogIndex), max(a.of.LogIndex, b.of.LogIndex), b.first)
		}
	}
}
