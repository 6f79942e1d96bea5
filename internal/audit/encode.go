package audit

import (
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// AppendEvents appends the events as a JSON array, some five times as fast as
// encoding/json. Each EventData is copied as it stands, and must be valid JSON.
func AppendEvents(dst []byte, events []Event) []byte {
	dst = append(dst, '[')
	for i := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = events[i].Append(dst)
	}
	return append(dst, ']')
}

// Append appends the event as a JSON object, with its members in the order and
// the form of RFC 8785. It is canonical where EventData is.
func (e *Event) Append(dst []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			dst = appendString(append(dst, name...), value)
			dst = append(dst, ',')
		}
	}
	dst = append(dst, '{')
	text(`"actor_id":`, e.ActorID)
	text(`"actor_type":`, e.ActorType)
	text(`"cluster_id":`, e.ClusterID)
	dst = appendString(append(dst, `"correlation_id":`...), e.CorrelationID)
	dst = append(dst, ',')
	if e.DurationMS != nil {
		dst = strconv.AppendInt(append(dst, `"duration_ms":`...), *e.DurationMS, 10)
		dst = append(dst, ',')
	}
	text(`"error_code":`, e.ErrorCode)
	text(`"error_message":`, e.ErrorMessage)
	dst = appendString(append(dst, `"event_action":`...), e.EventAction)
	dst = appendString(append(dst, `,"event_category":`...), e.EventCategory)
	dst = append(dst, `,"event_data":`...)
	if e.EventData == nil {
		dst = append(dst, "null"...)
	}
	dst = append(dst, e.EventData...)
	dst = appendUUID(append(dst, `,"event_id":`...), e.EventID)
	dst = appendString(append(dst, `,"event_outcome":`...), e.EventOutcome)
	dst = e.EventTimestamp.AppendFormat(append(dst, `,"event_timestamp":"`...), time.RFC3339Nano)
	dst = appendString(append(dst, `","event_type":`...), e.EventType)
	dst = append(dst, ',')
	text(`"namespace":`, e.Namespace)
	if e.ParentEventID != nil {
		dst = appendUUID(append(dst, `"parent_event_id":`...), *e.ParentEventID)
		dst = append(dst, ',')
	}
	text(`"resource_id":`, e.ResourceID)
	text(`"resource_type":`, e.ResourceType)
	text(`"salt":`, e.Salt)
	text(`"severity":`, e.Severity)
	dst = appendString(append(dst, `"version":`...), e.Version)
	return append(dst, '}')
}

func appendUUID(dst []byte, id uuid.UUID) []byte {
	dst = hex.AppendEncode(append(dst, '"'), id[:4])
	for _, group := range [][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		dst = hex.AppendEncode(append(dst, '-'), group)
	}
	return append(dst, '"')
}

// appendString escapes what RFC 8785 wants escaped and nothing else. Bytes that
// are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\r':
			dst = append(dst, `\r`...)
		default:
			if c >= utf8.RuneSelf {
				dst = append(dst, "\uFFFD"...)
			} else {
				dst = hex.AppendEncode(append(dst, `\u00`...), []byte{c})
			}
		}
		i += size
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}
