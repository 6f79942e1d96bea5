package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAStrangersRefusalIsNoVerdict(t *testing.T) {
	for _, status := range []int{400, 409, 413, 422} {
		answer := &PostError{Status: status, Reason: "Bad Request", Foreign: true}
		if v, err := judge(events(0, 1), Ack{}, answer, time.Now()); !errors.Is(err, answer) || len(v.rejected) > 0 {
			t.Errorf("%d: verdict %+v, error %v; want the error alone", status, v, err)
		}
	}
	// A proxy may well have a smaller limit than DataStorage.
	tooLarge := &PostError{Status: 413, Foreign: true}
	if v, err := judge(events(0, 2), Ack{}, tooLarge, time.Now()); err != nil || len(v.again) != 2 {
		t.Errorf("verdict %+v, error %v; want two halves", v, err)
	}
}

func TestOnlyAVerdictOnTheEventsIsTakenForOne(t *testing.T) {
	transient := []int{301, 307, 401, 403, 404, 405, 408, 415, 425, 429, 500, 501, 502, 503, 504, 599}
	for _, status := range transient {
		// Whatever else the answer has in it.
		answer := &PostError{Status: status, Faults: []Fault{{Index: 0}}}
		if v, err := judge(events(0, 1), Ack{}, answer, time.Now()); !errors.Is(err, answer) || len(v.rejected) > 0 {
			t.Errorf("%d: verdict %+v, error %v; want the error alone", status, v, err)
		}
	}
	lost := errors.New("EOF")
	if _, err := judge(events(0, 1), Ack{}, lost, time.Now()); !errors.Is(err, lost) {
		t.Errorf("error is %v", err)
	}
	for _, status := range []int{400, 409, 413, 422} {
		wrapped := fmt.Errorf("post: %w", &PostError{Status: status, Reason: "no"})
		v, err := judge(events(0, 1), Ack{}, wrapped, time.Now())
		if err != nil || len(v.rejected) != 1 || v.rejected[0].Status != status || v.rejected[0].Reason != "no" {
			t.Errorf("%d: verdict %+v, error %v; want the single event rejected", status, v, err)
		}
	}
}

func TestStoredFactsDecideAConflict(t *testing.T) {
	same := Facts{EventType: TypeMessageSent, NotificationUID: "uid-1", Channel: "ops", Attempt: 1, ContentDigest: "d"}
	for _, tc := range []struct {
		name   string
		change func(*Facts)
		agree  bool
	}{
		{"the same facts", func(*Facts) {}, true},
		{"another type", func(f *Facts) { f.EventType = TypeMessageFailed }, false},
		{"another request", func(f *Facts) { f.NotificationUID = "uid-2" }, false},
		{"another channel", func(f *Facts) { f.Channel = "dev" }, false},
		{"another attempt", func(f *Facts) { f.Attempt = 2 }, false},
		{"other content", func(f *Facts) { f.ContentDigest = "e" }, false},
		{"no facts", func(f *Facts) { *f = Facts{EventType: TypeMessageSent} }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			facts := same
			tc.change(&facts)
			answer := &PostError{Status: 409, Faults: []Fault{{Index: 0, Detail: "other content", Stored: &Stored{LogIndex: 42, Facts: facts}}}}
			v, err := judge([]Event{event(1)}, Ack{}, answer, time.Now())
			switch {
			case err != nil:
				t.Fatal(err)
			case tc.agree && (len(v.recorded) != 1 || *v.recorded[0].LogIndex != 42):
				t.Errorf("verdict %+v; want recorded at 42", v)
			case !tc.agree && (len(v.rejected) != 1 || v.rejected[0].Status != 409):
				t.Errorf("verdict %+v; want a rejected conflict", v)
			}
		})
	}
	nobody := event(1)
	nobody.EventData = []byte(`{}`)
	if (Facts{EventType: nobody.EventType}).agree(&nobody) {
		t.Error("events that name no request agree")
	}
}

func TestRejectedEventsAreSetAsideAloneWithTheReason(t *testing.T) {
	bad := func(n int) bool { return n%7 == 3 }
	index := func(e Event) (n int) { _, _ = fmt.Sscanf(e.ResourceID, "request-%d", &n); return n }
	pointing := func(batch []Event) *PostError {
		answer := &PostError{Status: 400, Reason: "invalid"}
		for i, e := range batch {
			if bad(index(e)) {
				answer.Faults = append(answer.Faults, Fault{Index: i, Detail: "must be a colour"}, Fault{Index: i, Detail: "is too long"})
			}
		}
		return answer
	}
	for _, tc := range []struct {
		name   string
		answer func(batch []Event) error
		reason string
		posts  int
	}{
		{"pointed at", func(batch []Event) error { return pointing(batch) }, "must be a colour; is too long", 2},
		{"not pointed at", func([]Event) error { return &PostError{Status: 422, Reason: "no"} }, "no", 47},
		{"too large", func([]Event) error { return &PostError{Status: 413, Reason: "too large"} }, "too large", 47},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &server{answer: func(_ context.Context, _ int, batch []Event) error {
					if slices.ContainsFunc(batch, func(e Event) bool { return bad(index(e)) }) {
						return tc.answer(batch)
					}
					return nil
				}}
				cfg := settings
				cfg.FlushInterval = 10 * time.Millisecond // well under the shortest backoff
				f := newFixture(t, cfg, srv, &memory{waiting: events(0, 50)})
				f.start()
				start := time.Now()
				f.record(events(100, 150)...)
				synctest.Wait()
				for f.Stats().Buffered > 0 || f.Stats().DeadLettered > 0 {
					advance(time.Millisecond)
				}
				if took := time.Since(start); took >= firstBackoff/2 {
					t.Errorf("it took %s; a verdict is not to be retried", took)
				}
				f.want(100, 86, 0, 0, 14)
				for _, list := range [][]Event{events(0, 50), events(100, 150)} {
					for _, e := range list {
						r := f.receipts[e.EventID]
						if r.Recorded == bad(index(e)) || (!r.Recorded && r.Reason != tc.reason) || r.Recorded != (r.LogIndex != nil) {
							t.Errorf("receipt of %s is %+v", e.ResourceID, r)
						}
					}
				}
				for _, r := range f.dlq.rejected {
					if !bad(index(r.Event)) || r.Reason != tc.reason {
						t.Errorf("set aside: %s, %s", r.Event.ResourceID, r.Reason)
					}
				}
				f.line("DataStorage rejected audit events")
				f.finish()
			})
		})
	}
}

func TestAnEventThatCannotBeSetAsideIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dlq := &memory{}
		f := newFixture(t, settings, &server{answer: always(&PostError{Status: 400, Reason: "no"})}, dlq)
		dlq.breakWith(errors.New("disk full"))
		f.start()
		f.record(event(1))
		advance(time.Minute)
		synctest.Wait()
		f.want(1, 0, 1, 0, 0)
		if len(f.receipts) > 0 {
			t.Errorf("receipts %+v before the event was set aside", f.receipts)
		}
		dlq.breakWith(nil)
		advance(time.Minute)
		synctest.Wait()
		f.want(1, 0, 0, 0, 1)
		f.finish()
	})
}

func TestAConflictThatAgreesIsRecordedWhereItWasStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		facts := func(n int) Facts {
			return Facts{TypeMessageSent, fmt.Sprint("uid-", n), "ops", 1, "d"}
		}
		srv := &server{answer: func(_ context.Context, n int, _ []Event) error {
			if n > 1 {
				return nil
			}
			return &PostError{Status: 409, Faults: []Fault{
				{Index: 2, Detail: "other content", Stored: &Stored{LogIndex: 7, Facts: facts(2)}},
				{Index: 3, Detail: "other content", Stored: &Stored{LogIndex: 8, Facts: facts(33)}},
			}}
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(events(0, 10)...)
		synctest.Wait()
		f.want(10, 9, 0, 0, 1)
		if r := f.receipts[event(2).EventID]; !r.Recorded || r.LogIndex == nil || *r.LogIndex != 7 || r.ResourceID != "request-2" {
			t.Errorf("receipt is %+v", r)
		}
		if r := f.receipts[event(3).EventID]; r.Recorded || r.Reason != "other content" {
			t.Errorf("receipt is %+v", r)
		}
		if n := f.Stats().Conflicts; n != 1 {
			t.Errorf("%d conflicts, want 1", n)
		}
		if l := f.line("DataStorage rejected audit events"); !strings.Contains(l, `"status":409,"reason":"other content"`) {
			t.Errorf("line is %s", l)
		}
		if diff := cmp.Diff([]int{10, 8}, srv.sizes()); diff != "" {
			t.Errorf("batch sizes (-want +got):\n%s", diff)
		}
		f.finish()
	})
}
