package audit

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// picky is a DataStorage that refuses all events until it is mended.
func picky() (*server, *atomic.Bool) {
	var mended atomic.Bool
	return &server{answer: func(context.Context, int, []Event) error {
		if mended.Load() {
			return nil
		}
		return &PostError{Status: 400, Reason: "invalid"}
	}}, &mended
}

func TestARejectedEventIsTakenOnceItsCauseIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, mended := picky()
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(events(0, 10)...)
		synctest.Wait()
		f.want(10, 0, 0, 0, 10)
		if r := f.receipts[event(3).EventID]; r.Recorded || r.Reason != "invalid" {
			t.Errorf("receipt is %+v", r)
		}
		mended.Store(true)
		advance(RejectedRecheck + dlqLook)
		synctest.Wait()
		f.want(10, 10, 0, 0, 0)
		if r := f.receipts[event(3).EventID]; !r.Recorded || r.LogIndex == nil {
			t.Errorf("receipt is %+v", r)
		}
		if s := f.Stats(); s.Rejections != 10 || s.Merged != 0 || s.Replayed != 10 {
			t.Errorf("counts are %+v", s)
		}
		f.finish()
	})
}

func TestARejectionThatLastsIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := "invalid"
		srv := &server{}
		srv.answer = func(context.Context, int, []Event) error {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			return &PostError{Status: 409, Reason: reason}
		}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(event(1))
		advance(24 * time.Hour)
		synctest.Wait()
		if n := len(srv.sizes()); n < 24*5 {
			t.Errorf("the event was offered %d times in a day", n)
		}
		if n := f.count("DataStorage rejected audit events"); n != 1 {
			t.Errorf("%d lines about one rejection", n)
		}
		srv.mu.Lock()
		reason = "invalid in another way"
		srv.mu.Unlock()
		advance(time.Hour)
		synctest.Wait()
		if n := f.count("DataStorage rejected audit events"); n != 2 {
			t.Errorf("%d lines about two reasons", n)
		}
		f.want(1, 0, 0, 0, 1)
		if s := f.Stats(); s.Rejections != 2 || s.Conflicts != 2 {
			t.Errorf("counts are %+v", s)
		}
		if r := f.receipts[event(1).EventID]; r.Reason != "invalid in another way" {
			t.Errorf("receipt is %+v", r)
		}
		f.finish()
	})
}

func TestWhatAnEarlierProcessLeftCountsAsRecordedAndIsOfferedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, mended := picky()
		dlq := &memory{}
		first := newFixture(t, settings, srv, dlq)
		first.start()
		first.record(events(0, 10)...)
		synctest.Wait()
		first.finish()
		dlq.leave(events(10, 15)...)

		mended.Store(true)
		second := newFixture(t, settings, srv, dlq)
		second.want(15, 0, 0, 5, 10)
		second.start()
		second.want(15, 15, 0, 0, 0)
		if s := second.Stats(); s.Rejections != 0 || s.Replayed != 15 {
			t.Errorf("counts are %+v", s)
		}
		second.finish()
	})
}

func TestTheBalanceHoldsWhenAnotherProcessLeavesOrTakesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &server{answer: func(context.Context, int, []Event) error { <-open; return nil }}
		dlq := &memory{waiting: events(0, 10)}
		f := newFixture(t, settings, srv, dlq)
		f.start() // ten are on their way
		dlq.leave(events(10, 30)...)
		dlq.takeOver(5)
		f.want(10, 0, 0, 10, 0)
		close(open)
		synctest.Wait()
		f.balanced()
		// Five were sent by both; the store counts what it sent.
		f.want(30, 30, 0, 0, 0)
		if n := f.Stats().Merged; n != 0 {
			t.Errorf("%d events merged, want none", n)
		}
		srv.answer = always(errors.New("refused"))
		f.record(events(30, 50)...)
		advance(10 * time.Second)
		synctest.Wait()
		f.want(50, 30, 0, 20, 0)
		dlq.takeOver(20)
		advance(10 * time.Second)
		synctest.Wait()
		f.want(30, 30, 0, 0, 0)
		if n := f.Stats().Merged; n != 20 {
			t.Errorf("%d events went to another process, want 20", n)
		}
		f.finish()
	})
}

func TestARejectedEventThatIsRecordedAgainIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := picky()
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		for range 3 {
			f.record(event(1))
			advance(time.Minute)
			synctest.Wait()
			f.want(1, 0, 0, 0, 1)
		}
		if s := f.Stats(); s.Merged != 2 || s.Rejections != 1 {
			t.Errorf("counts are %+v", s)
		}
		f.finish()
	})
}

func TestAnEventThatCannotBeSetAsideHoldsNoOtherUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := event(3).EventID
		srv := &server{answer: func(_ context.Context, _ int, batch []Event) error {
			for i, e := range batch {
				if e.EventID == bad {
					return &PostError{Status: 400, Faults: []Fault{{Index: i, Detail: "no"}}}
				}
			}
			return nil
		}}
		dlq := &memory{}
		f := newFixture(t, settings, srv, dlq)
		dlq.breakWith(errors.New("disk full"))
		f.start()
		f.record(events(0, 10)...)
		synctest.Wait()
		f.want(10, 9, 1, 0, 0)
		advance(time.Hour)
		if n := f.count("Audit batches are answered again"); n != 0 {
			t.Errorf("DataStorage was thought to be down %d times", n)
		}
		dlq.breakWith(nil)
		advance(time.Minute)
		synctest.Wait()
		f.want(10, 9, 0, 0, 1)
		f.finish()
	})
}
