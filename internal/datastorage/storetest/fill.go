package storetest

import (
	"fmt"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
)

// Fill appends 20,000 events. The older half, which was recorded 60 days before now, is
// of failed attempts and of the category outage, and every other one of it has outage as
// the correlation ID, the resource and the namespace; of the others, ten each are of
// incident-0, incident-1 and so on. One in ten is to be kept for 7 days.
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
				if n < 10_000 {
					e.EventType, e.EventOutcome, e.EventCategory = audit.TypeAttemptFailed, audit.OutcomeFailure, "outage"
				}
				if n < 10_000 && n%2 == 0 {
					e.CorrelationID, e.ResourceID, e.Namespace = "outage", "outage", "outage"
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

// Way is a filter of the events that Fill appends, with the index along which what
// passes it must be found, which has one name in both databases, and the columns that
// must be looked up in it, the one that it begins with first.
type Way struct {
	Filter  datastorage.Filter
	Index   string
	Columns []string
}

// Ways returns filters by one column, from the newest event on, from a time and from an
// event in the middle, and by two columns.
func Ways() map[string]Way {
	single := []struct{ column, value, index string }{
		{"correlation_id", "outage", "audit_events_correlation"},
		{"correlation_id", "incident-7", "audit_events_correlation"},
		{"resource_id", "outage", "audit_events_resource"},
		{"event_type", audit.TypeAttemptFailed, "audit_events_type"},
		{"event_type", audit.TypeMessageAcknowledged, "audit_events_type"},
		{"event_outcome", audit.OutcomeFailure, "audit_events_outcome"},
		{"namespace", "default", "audit_events_namespace"},
		{"namespace", "outage", "audit_events_namespace"},
		{"namespace", "absent", "audit_events_namespace"},
		{"event_category", "outage", "audit_events_category"},
		{"severity", "absent", "audit_events_time"},
		{"event_type", audit.TypeMessageSent, "audit_events_time"},
		{"event_outcome", audit.OutcomeSuccess, "audit_events_time"},
		{"event_category", "notification", "audit_events_time"},
	}
	ways := map[string]Way{"all": {datastorage.Filter{Limit: 10}, "audit_events_time", nil}}
	for n, first := range single {
		var columns []string
		if first.index != "audit_events_time" {
			columns = []string{first.column}
		}
		equal := map[string]string{first.column: first.value}
		name := first.column + "=" + first.value
		ways[name] = Way{datastorage.Filter{Equal: equal, Limit: 10}, first.index, columns}
		ways[name+", since then"] = Way{datastorage.Filter{Equal: equal, Since: Epoch.Add(time.Millisecond), Limit: 1000}, first.index, columns}
		middle := &datastorage.Cursor{Micros: Epoch.UnixMicro() + 10_000, LogIndex: 10_000}
		ways[name+", from the middle on"] = Way{datastorage.Filter{Equal: equal, After: middle, Limit: 1000}, first.index, columns}
		for _, second := range single[n+1:] {
			if second.column == first.column {
				continue
			}
			both := Way{datastorage.Filter{Equal: map[string]string{first.column: first.value, second.column: second.value}, Limit: 1000}, first.index, columns}
			if second.column == "namespace" && (first.index == "audit_events_type" || first.index == "audit_events_outcome") {
				both.Columns = []string{first.column, "namespace"}
			}
			ways[name+"&"+second.column+"="+second.value] = both
		}
	}
	return ways
}
