package datastorage

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	defaultLimit = 50
	maxLimit     = 1000
	// maxLeaving bounds the memory of events that clients have asked for and have yet
	// to take.
	maxLeaving = 8 * MaxPageBytes
	// smallAnswer is one for which some of that is kept, so that whoever is slow to
	// take large pages keeps nobody from looking at an incident.
	smallAnswer = 64 << 10
)

type pagination struct {
	Limit   int    `json:"limit"`
	Offset  int    `json:"offset"`
	Total   int64  `json:"total"`
	HasMore bool   `json:"has_more"`
	After   string `json:"after,omitempty"`
}

func (a *API) listEvents(w http.ResponseWriter, r *http.Request) {
	filter, detail := parseFilter(r.URL.RawQuery, time.Now())
	if detail != "" {
		problem(invalidRequest, detail).write(w)
		return
	}
	page, p := a.query(r, filter)
	if p != nil {
		p.write(w)
		return
	}
	out := pagination{Limit: filter.Limit, Offset: filter.Offset, Total: page.Total, HasMore: page.Next != nil}
	seen := 0
	if n := len(page.Events); n > 0 {
		seen = filter.Offset + n
	}
	if page.Next != nil {
		seen++ // Whoever pages by offset as far as total goes on.
		// Fewer where they are large, which whoever pages by offset must know.
		out.Limit = len(page.Events)
		out.After = page.Next.String()
	}
	// They may lie further back than events are counted.
	out.Total = max(out.Total, int64(min(MaxTotal, seen)))
	last, err := json.Marshal(out)
	if err != nil {
		panic(err) // Numbers and texts always have a form.
	}
	a.leave(w, `{"data":[`, page.Events, fmt.Sprintf(`],"pagination":%s}`+"\n", last))
}

// leave answers with events, in JSON between two texts, and lets go of each as soon
// as it is on its way.
func (a *API) leave(w http.ResponseWriter, before string, events []Stored, after string) {
	bytes := int64(0)
	for i := range events {
		bytes += int64(len(events[i].Body))
	}
	room := int64(maxLeaving)
	if bytes > smallAnswer {
		room -= keptForSmall
	}
	defer a.leaving.Add(-bytes)
	if a.leaving.Add(bytes) > room {
		retryable(tooManyRequests, "events that other clients are slow to take fill all the memory there is for them; send this request again later").write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	_, err := out.WriteString(before)
	for i := 0; i < len(events) && err == nil; i++ {
		if i > 0 {
			_ = out.WriteByte(',') // It fails again with the event.
		}
		text := events[i].json()
		events[i].Body = nil
		_, err = out.Write(text)
	}
	_, _ = out.WriteString(after)
	_ = out.Flush() // Nobody is there to be told.
}

func (a *API) getEvent(w http.ResponseWriter, r *http.Request) {
	event, p := a.event(r, r.PathValue("event_id"))
	if p != nil {
		p.write(w)
		return
	}
	a.leave(w, "", []Stored{*event}, "\n")
}

// event returns the event with an ID that a client has sent.
func (a *API) event(r *http.Request, text string) (*Stored, *Problem) {
	id, ok := parseUUID(text)
	if !ok {
		return nil, problem(invalidRequest, "event_id must be a UUID such as 123e4567-e89b-42d3-a456-426614174000")
	}
	page, p := a.query(r, Filter{Equal: map[string]string{"event_id": id.String()}, Limit: 1})
	if p == nil && len(page.Events) == 0 {
		p = problem(notFound, fmt.Sprintf("no event has the ID %s", id))
	}
	if p != nil {
		return nil, p
	}
	return &page.Events[0], nil
}

func (a *API) query(r *http.Request, filter Filter) (Page, *Problem) {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	page, err := a.events.Query(ctx, filter)
	if err == nil {
		return page, nil
	}
	if r.Context().Err() == nil {
		requestLog(r).Error(err, "Reading events failed")
	}
	return Page{}, retryable(unavailable, "the database does not answer at present")
}

// json returns the stored event with its place in the log. Without the three
// added members it is, byte for byte, what the leaf hash was made of, unless it
// has expired.
func (s *Stored) json() json.RawMessage {
	body := s.Body
	if body == nil {
		body = s.remains()
	}
	out := append(make([]byte, 0, len(body)+192), body[:len(body)-1]...)
	return appendPlace(out, s.LeafHash[:], s.LogIndex, s.RecordedAt)
}

// parseFilter reads the query of a list request, or returns the sentence that
// says what is wrong with it.
func parseFilter(rawQuery string, now time.Time) (Filter, string) {
	f := Filter{Equal: map[string]string{}, Limit: defaultLimit}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return f, "the query cannot be parsed: " + err.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if len(query[name]) > 1 {
			return f, fmt.Sprintf("parameter %q is there more than once", name)
		}
		if detail := f.set(name, query[name][0], now); detail != "" {
			return f, detail
		}
	}
	if f.After != nil && f.Offset > 0 {
		return f, "offset and after exclude each other; send one of them"
	}
	return f, ""
}

func (f *Filter) set(name, value string, now time.Time) string {
	var err error
	switch {
	case name == "limit":
		f.Limit, err = strconv.Atoi(value)
		if err != nil || f.Limit < 1 || f.Limit > maxLimit {
			return fmt.Sprintf("limit must be a number from 1 to %d", maxLimit)
		}
	case name == "offset":
		f.Offset, err = strconv.Atoi(value)
		if err != nil || f.Offset < 0 {
			return "offset must be a number from 0 on"
		}
	case name == "after":
		if f.After, err = parseCursor(value); err != nil {
			return "after must be a value that pagination.after of an earlier answer had"
		}
	case name == "since":
		if f.Since, err = parseTime(value, now); err != nil {
			return "since must be " + timeForms
		}
	case name == "until":
		if f.Until, err = parseTime(value, now); err != nil {
			return "until must be " + timeForms
		}
	// An event is found by its ID at a path of its own.
	case name != "event_id" && slices.Contains(FilterColumns, name):
		if value == "" || strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return fmt.Sprintf("parameter %q must have a value, in UTF-8 and without NUL characters", name)
		}
		f.Equal[name] = value
	default:
		return fmt.Sprintf("parameter %q is not known", name)
	}
	return ""
}

const timeForms = "a duration before now, such as 24h or 7d, or an RFC 3339 time"

func parseTime(value string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return now.AddDate(0, 0, -int(n)), err
	}
	if ago, err := time.ParseDuration(value); err == nil {
		if ago < 0 {
			return time.Time{}, strconv.ErrRange
		}
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339, value)
}

// String returns the cursor in the form that pagination.after has.
func (c Cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", c.Micros, c.LogIndex))
}

func parseCursor(s string) (*Cursor, error) {
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, err
	}
	micros, index, _ := strings.Cut(string(text), ".")
	var c Cursor
	if c.Micros, err = strconv.ParseInt(micros, 10, 64); err != nil {
		return nil, err
	}
	if c.LogIndex, err = strconv.ParseInt(index, 10, 64); err != nil {
		return nil, err
	}
	// Outside the years that RFC 3339 has, the databases fail instead of finding nothing.
	if year := time.UnixMicro(c.Micros).UTC().Year(); year < 0 || year > 9999 {
		return nil, strconv.ErrRange
	}
	return &c, nil
}
