package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
)

func testAges(t *testing.T, s *datastorage.Log) {
	times := []time.Time{
		time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC),
		Epoch,
		time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
	}
	for n, at := range times {
		mustAppend(t, s, Record(n, func(e *audit.Event) { e.EventTimestamp = at }))
	}
	equal(t, "order", []int64{3, 2, 1, 0}, indices(mustQuery(t, s, datastorage.Filter{})))
	for n, at := range times {
		equal(t, at.String(), []int64{int64(n)}, indices(mustQuery(t, s, datastorage.Filter{Since: at, Until: at})))
	}
}

func testFilters(t *testing.T, s *datastorage.Log) {
	edits := map[string]func(*audit.Event){
		"event_type":     func(e *audit.Event) { e.EventType = "wanted" },
		"event_category": func(e *audit.Event) { e.EventCategory = "wanted" },
		"event_outcome":  func(e *audit.Event) { e.EventOutcome = "wanted" },
		"severity":       func(e *audit.Event) { e.Severity = "wanted" },
		"correlation_id": func(e *audit.Event) { e.CorrelationID = "wanted" },
		"resource_id":    func(e *audit.Event) { e.ResourceID = "wanted" },
		"namespace":      func(e *audit.Event) { e.Namespace = "wanted" },
	}
	// The optional members are empty in the others, to be told from any value.
	empty := func(e *audit.Event) { e.Severity, e.ResourceID, e.Namespace = "", "", "" }
	index := map[string]int64{}
	for n, column := range datastorage.FilterColumns {
		if edit, ok := edits[column]; ok {
			index[column] = mustAppend(t, s, Record(n, empty, edit))[0].LogIndex
		}
	}
	equal(t, "filters tested", len(datastorage.FilterColumns)-1, len(index))
	for column, want := range index {
		page := mustQuery(t, s, datastorage.Filter{Equal: map[string]string{column: "wanted"}})
		equal(t, column, []int64{want}, indices(page))
		equal(t, column+" total", int64(1), page.Total)
	}
	absent := datastorage.Filter{Equal: map[string]string{"event_id": Record(999).Event.EventID.String()}}
	equal(t, "an ID that is not there", []int64{}, indices(mustQuery(t, s, absent)))
}

// testCombinations has an event for each way in which columns can hold what most
// events have, or something else.
func testCombinations(t *testing.T, s *datastorage.Log) {
	columns := datastorage.FilterColumns[1:] // all but the ID
	value := func(column string, other bool) string {
		if other {
			return "other"
		}
		return cmp.Or(datastorage.Usual[column], "most")
	}
	var events []map[string]string
	var records []datastorage.Record
	for n := range 1 << len(columns) {
		e := map[string]string{}
		for i, column := range columns {
			e[column] = value(column, n>>i&1 == 1)
		}
		events = append(events, e)
		records = append(records, Record(n, func(r *audit.Event) {
			r.EventType, r.EventCategory, r.EventOutcome = e["event_type"], e["event_category"], e["event_outcome"]
			r.CorrelationID, r.Severity, r.ResourceID, r.Namespace = e["correlation_id"], e["severity"], e["resource_id"], e["namespace"]
		}))
	}
	mustAppend(t, s, records...)
	const first, last = 20, 120
	filters := 1
	for range columns {
		filters *= 3
	}
	for n := 0; n < filters; n += 5 { // of three choices for each column, one in five
		filter := datastorage.Filter{Equal: map[string]string{}, Since: records[first].Event.EventTimestamp, Until: records[last].Event.EventTimestamp}
		for i, rest := 0, n; i < len(columns); i, rest = i+1, rest/3 {
			if choice := rest % 3; choice > 0 {
				filter.Equal[columns[i]] = value(columns[i], choice == 2)
			}
		}
		want := []int64{}
		for i := last; i >= first; i-- {
			if !slices.ContainsFunc(columns, func(c string) bool { return filter.Equal[c] != "" && filter.Equal[c] != events[i][c] }) {
				want = append(want, int64(i))
			}
		}
		page := mustQuery(t, s, filter)
		equal(t, fmt.Sprint(filter.Equal), want, indices(page))
		equal(t, fmt.Sprint("total of ", filter.Equal), int64(len(want)), page.Total)
	}
}

func testPages(t *testing.T, s *datastorage.Log) {
	for n := range 7 {
		mustAppend(t, s, Record(n, func(e *audit.Event) { e.Severity = []string{"odd", "even"}[n%2] }))
	}
	want := []int64{6, 5, 4, 3, 2, 1, 0}
	got := []int64{}
	filter := datastorage.Filter{Limit: 3}
	for pages := 1; ; pages++ {
		page := mustQuery(t, s, filter)
		got = append(got, indices(page)...)
		equal(t, "total", int64(7), page.Total)
		if page.Next == nil {
			equal(t, "pages", 3, pages)
			break
		}
		filter.After = page.Next
	}
	equal(t, "by cursor", want, got)

	equal(t, "by offset", []int64{3, 2, 1}, indices(mustQuery(t, s, datastorage.Filter{Limit: 3, Offset: 3})))
	equal(t, "beyond the end", []int64{}, indices(mustQuery(t, s, datastorage.Filter{Limit: 3, Offset: 7})))
	if page := mustQuery(t, s, datastorage.Filter{Limit: 7}); page.Next != nil {
		t.Errorf("a page that holds the last event says that more follow at %+v", page.Next)
	}
	filtered := datastorage.Filter{Equal: map[string]string{"severity": "odd"}, Limit: 2}
	page := mustQuery(t, s, filtered)
	equal(t, "filtered page", []int64{6, 4}, indices(page))
	equal(t, "filtered total", int64(4), page.Total)
	filtered.After = page.Next
	equal(t, "filtered second page", []int64{2, 0}, indices(mustQuery(t, s, filtered)))
}

func testTies(t *testing.T, s *datastorage.Log) {
	for n := range 4 {
		// Less than a microsecond apart is the same instant.
		mustAppend(t, s, Record(n, func(e *audit.Event) { e.EventTimestamp = Epoch.Add(time.Duration(9-n) * time.Nanosecond) }))
	}
	first := mustQuery(t, s, datastorage.Filter{Limit: 2})
	equal(t, "first page", []int64{3, 2}, indices(first))
	equal(t, "second page", []int64{1, 0}, indices(mustQuery(t, s, datastorage.Filter{Limit: 2, After: first.Next})))
}

func testStableWalk(t *testing.T, s *datastorage.Log) {
	for n := range 4 {
		mustAppend(t, s, Record(n))
	}
	first := mustQuery(t, s, datastorage.Filter{Limit: 2})
	mustAppend(t, s, Record(100), Record(101))
	equal(t, "second page", []int64{1, 0}, indices(mustQuery(t, s, datastorage.Filter{Limit: 2, After: first.Next})))
}

func testTotal(t *testing.T, s *datastorage.Log) {
	const uncounted = 1000
	all := datastorage.MaxCounted + uncounted
	rare := []int64{int64(all - 1), uncounted, uncounted - 1, 0} // two of them among those that are counted
	for n := 0; n < all; n += 1000 {
		var records []datastorage.Record
		for i := n; i < n+1000; i++ {
			records = append(records, Record(i, func(e *audit.Event) {
				e.CorrelationID = "same"
				if slices.Contains(rare, int64(i)) {
					e.Severity = "rare"
				}
			}))
		}
		mustAppend(t, s, records...)
	}
	same := map[string]string{"correlation_id": "same"}
	equal(t, "total without a filter", int64(all), mustQuery(t, s, datastorage.Filter{}).Total)
	equal(t, "total of many", int64(datastorage.MaxTotal), mustQuery(t, s, datastorage.Filter{Equal: same}).Total)
	since := Epoch.Add(time.Duration(all-500) * time.Microsecond)
	equal(t, "total of fewer", int64(500), mustQuery(t, s, datastorage.Filter{Equal: same, Since: since}).Total)
	for _, filter := range []datastorage.Filter{
		{Equal: map[string]string{"severity": "rare"}, Limit: 3},
		{Equal: map[string]string{"severity": "rare", "correlation_id": "same"}, Limit: 3},
	} {
		page := mustQuery(t, s, filter)
		equal(t, "total of rare ones", int64(2), page.Total)
		equal(t, "page of rare ones", rare[:3], indices(page))
		filter.After = page.Next
		equal(t, "second page of rare ones", rare[3:], indices(mustQuery(t, s, filter)))
	}
}
