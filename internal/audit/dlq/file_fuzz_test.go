package dlq

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/audit"
)

// stored is a row as SQLite hands it out.
type stored []any

func (s stored) Scan(to ...any) error {
	if len(to) != len(s) {
		return fmt.Errorf("%d columns", len(to))
	}
	for i, v := range s {
		switch to := to[i].(type) {
		case *int:
			*to = v.(int)
		case *int64:
			*to = int64(v.(int))
		case *uint32:
			*to = v.(uint32)
		case *string:
			*to = v.(string)
		case *[]byte:
			*to = v.([]byte)
		default:
			return fmt.Errorf("column %d is a %T", i, to)
		}
	}
	return nil
}

// FuzzRow decodes rows whose checksum is right or wrong: only a right one is
// trusted, and what is trusted can be written again and is then the same.
func FuzzRow(f *testing.F) {
	good := audit.AppendEvents(nil, events(0, 2))
	f.Add(good, checksum(good, 0, ""), 0, "")
	f.Add(good[:len(good)-1], uint32(0), 400, "bad")
	f.Add([]byte(`[{"event_id":null,"event_data":{}}]`), uint32(1), 0, "")
	f.Add([]byte(`{"event_id":"00000000-0000-0000-0000-000000000001","event_timestamp":"2026-01-01T00:00:00+01:00","event_data":{"a":1}}`), uint32(1), 409, "x")
	f.Fuzz(func(t *testing.T, payload []byte, sum uint32, status int, reason string) {
		for _, right := range []bool{false, true} {
			if right {
				sum = checksum(payload, 0, "")
			}
			_, held, list, err := scanBatch(stored{1, 2, 3, payload, sum})
			if err == nil && sum != checksum(payload, 0, "") || err != nil && (!isUnreadable(err) || held == 0) {
				t.Errorf("error is %v, %d events are held", err, held)
			}
			if err == nil {
				again := audit.AppendEvents(nil, list)
				if _, _, same, err := scanBatch(stored{1, 2, 3, again, checksum(again, 0, "")}); err != nil || !cmp.Equal(list, same) {
					t.Errorf("written again: %v, %s", err, cmp.Diff(list, same))
				}
			}
			if right {
				sum = checksum(payload, status, reason)
			}
			e, err := scanRejected(stored{audit.EventID("1").String(), status, reason, payload, sum})
			if err == nil && (sum != checksum(payload, status, reason) || e.EventID != audit.EventID("1")) || err != nil && !isUnreadable(err) {
				t.Errorf("error is %v for the event %s", err, e.EventID)
			}
		}
	})
}
