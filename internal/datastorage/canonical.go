package datastorage

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

// scanCanonical reads an array of events, each in canonical form already and with
// an ID and no members but those that audit.Event has for a client. Such events
// break no rules but those of Validate, which is not asked here. Their EventData
// are parts of body, which must not be changed from then on.
//
// Where ok is false, what is returned means nothing. parseEvent may well take the
// events then, as with a fraction in event_data or a name there that is not ASCII.
func scanCanonical(body []byte) (events []audit.Event, ok bool) {
	if !utf8.Valid(body) {
		return nil, false
	}
	s := scanner{body: body, text: string(body)}
	s.want(`[`)
	for !s.failed && len(events) < maxBatchEvents {
		events = append(events, s.event())
		if !s.skip(`,`) {
			break
		}
	}
	s.want(`]`)
	return events, !s.failed && s.at == len(body)
}

func (s *scanner) event() (event audit.Event) {
	s.want(`{`)
	event.ActorID = s.optional(`"actor_id":`)
	event.ActorType = s.optional(`"actor_type":`)
	event.ClusterID = s.optional(`"cluster_id":`)
	event.CorrelationID = s.required(`"correlation_id":`)
	if s.skip(`"duration_ms":`) {
		event.DurationMS = new(s.integer())
		s.want(`,`)
	}
	event.ErrorCode = s.optional(`"error_code":`)
	event.ErrorMessage = s.optional(`"error_message":`)
	event.EventAction = s.required(`"event_action":`)
	event.EventCategory = s.required(`"event_category":`)
	s.want(`"event_data":`)
	from := s.at
	s.values = 0
	s.value(1)
	event.EventData = s.body[from:s.at:s.at]
	s.want(`,`)
	event.EventID = s.uuid(`"event_id":`)
	event.EventOutcome = s.required(`"event_outcome":`)
	event.EventTimestamp = s.time(`"event_timestamp":`)
	event.EventType = s.required(`"event_type":`)
	event.Namespace = s.optional(`"namespace":`)
	if name := `"parent_event_id":`; s.next(name) {
		event.ParentEventID = new(s.uuid(name))
	}
	event.ResourceID = s.optional(`"resource_id":`)
	event.ResourceType = s.optional(`"resource_type":`)
	event.Severity = s.optional(`"severity":`)
	s.want(`"version":`)
	event.Version = s.string()
	s.want(`}`)
	return event
}

// scanner reads canonical JSON. Once it has failed, what it returns means nothing.
type scanner struct {
	body   []byte
	text   string // the same
	at     int    // how much of text was read
	values int    // of an event_data
	failed bool
}

func (s *scanner) check(ok bool)          { s.failed = s.failed || !ok }
func (s *scanner) want(token string)      { s.check(s.skip(token)) }
func (s *scanner) next(token string) bool { return strings.HasPrefix(s.text[s.at:], token) }

// skip goes past the token if it is next.
func (s *scanner) skip(token string) bool {
	if !s.next(token) {
		return false
	}
	s.at += len(token)
	return true
}

// required reads a member that is a string, and the comma after it.
func (s *scanner) required(name string) string {
	s.want(name)
	text := s.string()
	s.want(`,`)
	return text
}

// optional is required for a member that audit.Event leaves out where it is empty.
func (s *scanner) optional(name string) (text string) {
	if s.next(name) {
		text = s.required(name)
		s.check(text != "")
	}
	return text
}

func (s *scanner) string() string {
	inner, escaped := s.quoted()
	if !escaped {
		return inner
	}
	// Go has all the escapes of canonical JSON, with the same meanings.
	text, err := strconv.Unquote(`"` + inner + `"`)
	s.check(err == nil)
	return text
}

// quoted reads a string and returns what is between its quotes as it stands, and
// whether that has escapes.
func (s *scanner) quoted() (inner string, escaped bool) {
	s.want(`"`)
	text := s.text
	for at, size := s.at, 1; at < len(text) && size > 0 && !s.failed; at += size {
		switch c := text[at]; {
		case c == '"':
			inner, s.at = text[s.at:at], at+1
			return inner, escaped
		case c == '\\':
			escaped, size = true, escapeSize(text[at:])
		case c < ' ':
			size = 0
		default:
			size = 1
		}
	}
	s.failed = true
	return "", false
}

// escapeSize returns the length of the escape that text starts with, 0 where it
// is not one of canonical JSON, or is NUL, which no event may have.
func escapeSize(text string) int {
	size, last := 2, `"\bfnrt`
	if strings.HasPrefix(text, `\u000`) {
		size, last = 6, "1234567bef" // the others have short escapes
	} else if strings.HasPrefix(text, `\u001`) {
		size, last = 6, "0123456789abcdef"
	}
	if len(text) < size || strings.IndexByte(last, text[size-1]) < 0 {
		return 0
	}
	return size
}

func (s *scanner) integer() int64 {
	text := s.text[s.at : len(s.text)-len(strings.TrimLeft(s.text[s.at:], "-0123456789"))]
	s.at += len(text)
	n, err := strconv.ParseInt(text, 10, 64)
	var again [20]byte // as long as the longest int64
	s.check(err == nil && -maxExactInteger <= n && n <= maxExactInteger && string(strconv.AppendInt(again[:0], n, 10)) == text)
	return n
}

// uuid fails for the nil UUID, which elsewhere counts as none.
func (s *scanner) uuid(name string) uuid.UUID {
	text := s.required(name)
	id, ok := parseUUID(text)
	s.check(ok && id != uuid.Nil && strings.ToLower(text) == text)
	return id
}

func (s *scanner) time(name string) time.Time {
	text := s.required(name)
	t, err := time.Parse(time.RFC3339Nano, text)
	var again [len(time.RFC3339Nano)]byte
	s.check(err == nil && strings.HasSuffix(text, "Z") && string(t.AppendFormat(again[:0], time.RFC3339Nano)) == text)
	return t
}

// value reads any value that is inside of depth others.
func (s *scanner) value(depth int) {
	s.values++
	s.check(s.values <= maxValues-len(ownMembers)-1)
	switch {
	case s.next(`"`):
		s.quoted()
	case s.skip(`null`), s.skip(`true`), s.skip(`false`):
	case s.skip(`{`):
		s.list(depth, `}`)
	case s.skip(`[`):
		s.list(depth, `]`)
	default:
		s.integer()
	}
}

// list reads the rest of an object or of an array.
func (s *scanner) list(depth int, end string) {
	s.check(depth < maxDepth)
	previous := ""
	for n := 0; !s.failed && !s.skip(end); n++ {
		s.check(n == 0 || s.skip(`,`))
		if end == `}` {
			name, escaped := s.quoted()
			// The order of names is not that of their bytes where they have
			// escapes, nor always where they are not ASCII.
			s.check(!escaped && utf8.RuneCountInString(name) == len(name) && (n == 0 || previous < name))
			s.want(`:`)
			previous = name
		}
		s.value(depth + 1)
	}
}
