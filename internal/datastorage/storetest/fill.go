package storetest

import (
	"fmt"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
)

// Fill appends 20,000 events. Of the older half, which was recorded 60 days before now,
// every other one has the correlation ID and the resource outage; of the others, ten
// each are of incident-0, incident-1 and so on. One in ten is to be kept for 7 days.
func Fill(t *testing.T, store datastorage.Store, now time.Time) *datastorage.Log {
	t.Helper()
	past := &At{Store: store}
	log := OpenLog(t, past)
	for first := 0; first < 20_000; first += 1000 {
		past.Time = now.Add(-60 * Day).Truncate(time.Microsecond)
		if first >= 10_000 {
			past.Time = now.Truncate(time.Microsecond)
		}
		var records []datastorage.Record
		for n := first; n < first+1000; n++ {
			r := Record(n, func(e *audit.Event) {
				e.CorrelationID = fmt.Sprint("incident-", n/20)
				if n < 10_000 && n%2 == 0 {
					e.CorrelationID, e.ResourceID = "outage", "outage"
				}
			})
			if n%10 == 0 {
				r = Keep(r, 7)
			}
			records = append(records, r)
		}
		mustAppend(t, log, records...)
	}
	return log
}
