package audit

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEventsWaitAtMostTheFlushIntervalAndAFullBatchNotAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{}, &memory{})
		f.start()
		start := time.Now()
		f.record(event(0))
		advance(100 * time.Millisecond)
		synctest.Wait()
		f.record(events(1, 11)...)
		synctest.Wait()
		ms := time.Millisecond
		if diff := cmp.Diff([]time.Duration{100 * ms, 100 * ms}, f.server.times(start)); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int{1, 10}, f.server.sizes()); diff != "" {
			t.Errorf("batch sizes (-want +got):\n%s", diff)
		}
		f.finish()
		f.want(11, 11, 0, 0, 0)
	})
}

func TestBatchesGrowWhileFourAreInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &server{answer: func(context.Context, int, []Event) error { <-open; return nil }}
		cfg := settings
		cfg.BufferSize = 5000
		f := newFixture(t, cfg, srv, &memory{})
		f.start()
		for n := range 4 {
			f.record(events(n*10, n*10+10)...)
			synctest.Wait()
		}
		f.record(events(40, 1540)...)
		advance(time.Second)
		synctest.Wait()
		if s := f.Stats(); s.InFlight != 4 || s.Buffered != 1540 {
			t.Errorf("%d batches in flight, %d events buffered; want 4 and 1540", s.InFlight, s.Buffered)
		}
		close(open)
		advance(time.Second)
		synctest.Wait()
		sizes := srv.sizes()
		slices.Sort(sizes) // the last two left at the same time
		if diff := cmp.Diff([]int{10, 10, 10, 10, 500, 1000}, sizes); diff != "" {
			t.Errorf("batch sizes (-want +got):\n%s", diff)
		}
		if srv.peak != 4 {
			t.Errorf("%d requests at once, want 4", srv.peak)
		}
		f.finish()
		f.want(1540, 1540, 0, 0, 0)
	})
}

func TestAFailedBatchIsRepeatedUnchangedWithGrowingPausesAndThenDeadLettered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: always(errors.New("connection refused"))}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(events(0, 10)...)
		synctest.Wait()
		for f.Stats().DeadLettered == 0 {
			advance(time.Millisecond)
			synctest.Wait()
		}
		if n := len(srv.sizes()); n != 4 {
			t.Fatalf("%d tries, want 1 and 3 retries", n)
		}
		for i := 1; i < 4; i++ {
			full := 100 * time.Millisecond << (i - 1)
			if gap := srv.posts[i].at.Sub(srv.posts[i-1].at); gap < full/2 || gap > full {
				t.Errorf("pause %d is %s, want %s to %s", i, gap, full/2, full)
			}
			if srv.posts[i].body != srv.posts[0].body {
				t.Errorf("try %d has other bytes than the first", i+1)
			}
		}
		f.want(10, 0, 0, 10, 0)
		if s := f.Stats(); s.FailedBatches != 1 || s.Retried != 3 || s.Spilled != 10 {
			t.Errorf("counts are %+v", s)
		}
		if n := f.count("Failed to write audit batch"); n != 4 {
			t.Errorf("%d lines about failures, want 4", n)
		}
		if l := f.line("Failed to write audit batch"); !strings.Contains(l, `"attempt":1,"batch_size":10`) || !strings.Contains(l, `"error":"connection refused"`) {
			t.Errorf("line is %s", l)
		}
		f.finish()
	})
}

func TestRetryAfterWinsOverTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: func(_ context.Context, n int, _ []Event) error {
			if n == 1 {
				return &PostError{Status: 503, RetryAfter: 2 * time.Second}
			}
			return nil
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		start := time.Now()
		f.record(events(0, 10)...)
		advance(time.Minute)
		if diff := cmp.Diff([]time.Duration{0, 2 * time.Second}, srv.times(start)); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		f.finish()
		f.want(10, 10, 0, 0, 0)
	})
}

func TestALongRetryAfterIsSatOutInTheDLQ(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: func(_ context.Context, n int, _ []Event) error {
			if n == 1 {
				return &PostError{Status: 429, RetryAfter: time.Minute}
			}
			return nil
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		start := time.Now()
		f.record(events(0, 10)...)
		synctest.Wait()
		f.want(10, 0, 0, 10, 0)
		advance(2 * time.Minute)
		if diff := cmp.Diff([]time.Duration{0, time.Minute}, srv.times(start)); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		f.finish()
		f.want(10, 10, 0, 0, 0)
	})
}

func TestALongOutageCostsFewRequestsAndFewLinesAndEndsWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		up := start.Add(10 * time.Minute)
		srv := &server{answer: func(context.Context, int, []Event) error {
			if time.Now().Before(up) {
				return errors.New("connection refused")
			}
			return nil
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		for n := range 600 {
			f.record(event(n))
			advance(time.Second)
		}
		synctest.Wait()
		if n := len(srv.sizes()); n > 300 {
			t.Errorf("%d requests in 10 minutes", n)
		}
		if n := f.count("Failed to write audit batch"); n < 60 || n > 130 {
			t.Errorf("%d lines in 10 minutes, want one every few seconds", n)
		}
		advance(6 * time.Second)
		synctest.Wait()
		f.want(600, 600, 0, 0, 0)
		f.line("Audit batches are answered again")
		f.finish()
		for id, n := range srv.rows {
			if n != 1 {
				t.Errorf("event %s was taken %d times", id, n)
			}
		}
	})
}

func TestReplayAndNewEventsDoNotHoldEachOtherUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(context.Context, int, []Event) error { advance(50 * time.Millisecond); return nil }
		f := newFixture(t, settings, &server{answer: slow}, &memory{waiting: events(0, 5000)})
		f.want(5000, 0, 0, 5000, 0)
		f.start()
		for n := range 100 {
			f.record(event(10_000 + n))
			advance(10 * time.Millisecond)
		}
		synctest.Wait()
		s := f.Stats()
		if s.DeadLettered != 0 {
			t.Errorf("%d of 5000 dead letters wait after a second of requests of 50 ms", s.DeadLettered)
		}
		if s.Buffered > 25 {
			t.Errorf("%d new events wait", s.Buffered)
		}
		f.finish()
		f.want(5100, 5100, 0, 0, 0)
	})
}

func TestAnEventThatMakesDataStorageFailHoldsNoOtherUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		poison := event(7).EventID
		srv := &server{answer: func(_ context.Context, _ int, batch []Event) error {
			if slices.ContainsFunc(batch, func(e Event) bool { return e.EventID == poison }) {
				return &PostError{Status: 500}
			}
			return nil
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(events(0, 50)...)
		advance(10 * time.Minute)
		synctest.Wait()
		f.want(50, 49, 0, 1, 0)
		f.record(event(100))
		advance(100 * time.Millisecond)
		synctest.Wait()
		f.want(51, 50, 0, 1, 0)
		f.finish()
	})
}

func TestABrokenDLQDoesNotStopWhatDataStorageTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dlq := &memory{waiting: events(0, 5)}
		f := newFixture(t, settings, &server{}, dlq)
		dlq.breakWith(errors.New("input/output error"))
		f.start()
		f.record(events(100, 130)...)
		advance(time.Second)
		synctest.Wait()
		f.want(35, 30, 0, 5, 0)
		dlq.breakWith(nil)
		advance(time.Minute)
		synctest.Wait()
		f.want(35, 35, 0, 0, 0)
		f.finish()
	})
}

func TestEventsStayInMemoryWhileNeitherDataStorageNorTheDLQTakesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("refused")
		srv := &server{}
		srv.answer = func(context.Context, int, []Event) error {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			return down
		}
		dlq := &memory{}
		f := newFixture(t, settings, srv, dlq)
		dlq.breakWith(errors.New("disk full"))
		f.start()
		f.record(events(0, 100)...)
		advance(time.Hour)
		synctest.Wait()
		f.want(100, 0, 100, 0, 0)
		srv.mu.Lock()
		down = nil
		srv.mu.Unlock()
		advance(time.Minute)
		synctest.Wait()
		f.want(100, 100, 0, 0, 0)
		f.finish()
	})
}

func TestReadinessTellsThatCredentialsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: func(_ context.Context, n int, _ []Event) error {
			if n < 3 {
				return &PostError{Status: 403, Reason: "the token is not known"}
			}
			return nil
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.start()
		f.record(events(0, 10)...)
		synctest.Wait()
		if err := f.Check(nil); err == nil || !strings.Contains(err.Error(), "403: the token is not known") {
			t.Errorf("error is %v", err)
		}
		advance(time.Second)
		if err := f.Check(nil); err != nil {
			t.Errorf("error is %v after success", err)
		}
		f.finish()
		f.want(10, 10, 0, 0, 0)
	})
}

func TestTheDLQsFailuresHaveALineOfTheirOwnAndNotManyOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dlq := &memory{waiting: events(0, 5)}
		f := newFixture(t, settings, &server{}, dlq)
		dlq.breakWith(errors.New("input/output error"))
		f.start()
		for n := range 600 {
			f.record(event(100 + n))
			advance(time.Second)
		}
		synctest.Wait()
		if n := f.count("Failed to write audit batch"); n != 0 {
			t.Errorf("%d lines say that DataStorage failed", n)
		}
		if n := f.count(`"msg":"The dead-letter queue cannot be used","error":"`); n < 60 || n > 130 {
			t.Errorf("%d lines in 10 minutes, want one every few seconds", n)
		}
		dlq.breakWith(nil)
		f.finish()
	})
}

func TestAnIdleStoreLooksIntoTheDLQOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dlq := &memory{}
		f := newFixture(t, settings, &server{}, dlq)
		f.start()
		advance(time.Hour + time.Second)
		synctest.Wait()
		dlq.mu.Lock()
		looks := dlq.looks
		dlq.mu.Unlock()
		if looks != 61 {
			t.Errorf("%d looks in an hour, want one at the start and 60", looks)
		}
		dlq.leave(events(0, 25)...) // of another replica, which has died
		advance(time.Minute)
		synctest.Wait()
		f.want(25, 25, 0, 0, 0)
		f.finish()
	})
}
