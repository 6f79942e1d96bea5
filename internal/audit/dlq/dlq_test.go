package dlq

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

// backends open the queue that the process before has left, or a new one.
var backends = map[string]func(*testing.T) (reopen func() audit.DLQ){
	"file":  fileBackend,
	"redis": redisBackend,
}

func fileBackend(t *testing.T) func() audit.DLQ {
	t.Helper()
	dir := t.TempDir()
	var f *File
	return func() audit.DLQ {
		if f != nil {
			f.Close()
		}
		f = open(t, dir)
		return f
	}
}

func redisBackend(t *testing.T) func() audit.DLQ {
	t.Helper()
	s := startRedis(t)
	var r *Redis
	return func() audit.DLQ {
		if r != nil {
			r.Close()
		}
		r = s.open("one")
		return r
	}
}

func TestBothQueuesKeepTheSamePromises(t *testing.T) {
	for name, backend := range backends {
		t.Run(name, func(t *testing.T) {
			for promise, check := range map[string]func(*testing.T, func() audit.DLQ){
				"what was put is there after a restart, byte for byte":        keepsBytes,
				"an event that waits is not added":                            addsOnce,
				"events come in order, those tried least often first":         takesTurns,
				"settled events are gone, others stay":                        settles,
				"rejected events are offered again by the next process alone": offersAgain,
				"one call returns no more than a request may carry":           boundsBytes,
			} {
				t.Run(promise, func(t *testing.T) { check(t, backend(t)) })
			}
		})
	}
}

func keepsBytes(t *testing.T, reopen func() audit.DLQ) {
	want := events(0, 2500)
	want[7].ErrorMessage = "a \x00 zero, \"quotes\", a\nline, <&> and é"
	want[8].EventData = json.RawMessage(`{"z":1,"a":1.10,"e":"\u00e9<"}`)
	d := reopen()
	mustPut(t, d, want, 2500)
	d = reopen()
	depth := mustSettle(t, d, nil, nil)
	if depth.Waiting != 2500 || time.Since(depth.Oldest) > time.Minute || time.Since(depth.Oldest) < -time.Minute {
		t.Errorf("depth is %+v", depth)
	}
	var got []audit.Event
	for range 3 {
		got = append(got, mustNext(t, d, 1000)...)
	}
	wantJSON, _ := json.Marshal(want)
	gotJSON, _ := json.Marshal(got[:2500])
	if diff := cmp.Diff(string(wantJSON), string(gotJSON)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func addsOnce(t *testing.T, reopen func() audit.DLQ) {
	d := reopen()
	mustPut(t, d, events(0, 5), 5)
	mustPut(t, d, events(3, 8), 3)
	mustPut(t, d, append(events(8, 10), events(8, 10)...), 2)
	d = reopen()
	mustPut(t, d, events(0, 10), 0)
	wantNext(t, d, 100, events(0, 10))
	if depth := mustSettle(t, d, ids(events(0, 1)), nil); depth.Waiting != 9 {
		t.Errorf("depth is %+v; want 9 waiting", depth)
	}
	mustPut(t, d, events(0, 1), 1)
}

func takesTurns(t *testing.T, reopen func() audit.DLQ) {
	d := reopen()
	wantNext(t, d, 10, nil)
	mustPut(t, d, events(0, 6), 6)
	wantNext(t, d, 2, events(0, 2))
	wantNext(t, d, 2, events(2, 4))
	wantNext(t, d, 2, events(4, 6))
	wantNext(t, d, 4, events(0, 4))
	mustPut(t, d, events(6, 8), 2)
	wantNext(t, d, 1, events(6, 7))
	mustSettle(t, d, ids(events(5, 6)), nil)
	wantNext(t, d, 1, events(7, 8))
	wantNext(t, d, 1, events(4, 5))
}

func settles(t *testing.T, reopen func() audit.DLQ) {
	d := reopen()
	mustPut(t, d, events(0, 10), 10)
	rejected := []audit.Rejection{{Event: event(4), Status: 400, Reason: "/event_type is required"}, {Event: event(99), Status: 409, Reason: "is stored"}}
	want := audit.Depth{Waiting: 5, Rejected: 2}
	wantDepth(t, want, mustSettle(t, d, ids(events(0, 4)), rejected))
	wantDepth(t, want, mustSettle(t, d, append(ids(events(0, 4)), uuid.New()), rejected))
	wantNext(t, d, 100, events(5, 10))
	wantDepth(t, audit.Depth{Rejected: 2}, mustSettle(t, d, ids(events(5, 10)), nil))
	wantNext(t, d, 100, nil)
	wantDepth(t, audit.Depth{Rejected: 2}, mustSettle(t, reopen(), nil, nil))
}

func offersAgain(t *testing.T, reopen func() audit.DLQ) {
	d := reopen()
	mustPut(t, d, events(0, 3), 3)
	mustSettle(t, d, nil, []audit.Rejection{{Event: event(1), Status: 400, Reason: "bad"}, {Event: event(7), Status: 422, Reason: "worse"}})
	wantNext(t, d, 10, append(events(0, 1), event(2)))
	d = reopen()
	if diff := cmp.Diff(sorted(event(0), event(1), event(2), event(7)), sorted(mustNext(t, d, 10)...)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	wantDepth(t, audit.Depth{Waiting: 4}, mustSettle(t, d, nil, nil))
	wantDepth(t, audit.Depth{Waiting: 3, Rejected: 1}, mustSettle(t, d, nil, []audit.Rejection{{Event: event(1), Status: 400, Reason: "bad"}}))
	if diff := cmp.Diff(sorted(event(0), event(2), event(7)), sorted(mustNext(t, d, 10)...)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func boundsBytes(t *testing.T, reopen func() audit.DLQ) {
	d := reopen()
	list := events(0, 12)
	for i := range list {
		list[i].EventData = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 1<<20))
	}
	list[0].EventData = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 6<<20))
	mustPut(t, d, list, 12)
	var got []audit.Event
	for range 12 {
		batch := mustNext(t, d, 1000)
		bytes := 0
		for _, e := range batch {
			bytes += len(e.EventData)
		}
		if bytes > 5<<20 && len(batch) > 1 {
			t.Errorf("%d bytes in %d events", bytes, len(batch))
		}
		if got = append(got, batch...); len(got) >= 12 {
			break
		}
	}
	if diff := cmp.Diff(ids(list), ids(got[:12])); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// sorted returns the IDs where their order is nobody's business.
func sorted(list ...audit.Event) []string {
	var ids []string
	for _, e := range list {
		ids = append(ids, e.EventID.String())
	}
	slices.Sort(ids)
	return ids
}

func mustPut(t *testing.T, d audit.DLQ, list []audit.Event, want int) {
	t.Helper()
	if added, err := d.Put(t.Context(), list); err != nil || added != want {
		t.Fatalf("put: %d added, error %v; want %d", added, err, want)
	}
}

func mustNext(t *testing.T, d audit.DLQ, limit int) []audit.Event {
	t.Helper()
	list, _, err := d.Next(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func wantNext(t *testing.T, d audit.DLQ, limit int, want []audit.Event) {
	t.Helper()
	if diff := cmp.Diff(ids(want), ids(mustNext(t, d, limit))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func mustSettle(t *testing.T, d audit.DLQ, recorded []uuid.UUID, rejected []audit.Rejection) audit.Depth {
	t.Helper()
	depth, err := d.Settle(t.Context(), recorded, rejected)
	if err != nil {
		t.Fatal(err)
	}
	return depth
}

// wantDepth compares the numbers.
func wantDepth(t *testing.T, want, got audit.Depth) {
	t.Helper()
	if got.Oldest.IsZero() != (want.Waiting == 0) {
		t.Errorf("the oldest of %d is of %v", got.Waiting, got.Oldest)
	}
	got.Oldest = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("depth (-want +got):\n%s", diff)
	}
}
