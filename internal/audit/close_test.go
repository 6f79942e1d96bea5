package audit

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheEndOfStartLeavesTheStoreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{}, &memory{})
		f.start()
		f.end()
		synctest.Wait()
		f.record(events(0, 30)...)
		advance(time.Minute)
		f.want(30, 0, 30, 0, 0)
		f.finish()
		f.want(30, 30, 0, 0, 0)
	})
}

func TestCloseWithoutStartSendsWhatWasRecorded(t *testing.T) {
	f := newFixture(t, settings, &server{}, &memory{})
	f.record(events(0, 30)...)
	f.finish()
	f.want(30, 30, 0, 0, 0)
}

func TestRecordAfterCloseGoesToTheDLQ(t *testing.T) {
	dlq := &memory{}
	f := newFixture(t, settings, &server{}, dlq)
	f.finish()
	f.record(event(1), event(1))
	f.want(1, 0, 0, 1, 0)
	dlq.breakWith(errors.New("closed"))
	if err := f.Record(event(2)); err == nil {
		t.Error("Record took an event that nothing holds")
	}
	f.want(1, 0, 0, 1, 0)
}

func TestCloseIsBoundedWhenDataStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ int, _ []Event) error { <-ctx.Done(); return ctx.Err() }
		f := newFixture(t, settings, &server{answer: hang}, &memory{})
		f.start()
		f.record(events(0, 500)...)
		advance(time.Second)
		start := time.Now()
		f.finish()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("Close took %s of 10s", took)
		}
		f.want(500, 0, 0, 500, 0)
	})
}

func TestCloseSpillsAtOnceWhileDataStorageIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{answer: always(errors.New("refused"))}, &memory{})
		f.start()
		f.record(events(0, 30)...)
		advance(10 * time.Second)
		f.record(events(30, 500)...)
		start := time.Now()
		f.finish()
		if took := time.Since(start); took > 0 {
			t.Errorf("Close took %s", took)
		}
		f.want(500, 0, 0, 500, 0)
	})
}

func TestCloseSaysHowManyEventsAreInMemoryOnly(t *testing.T) {
	dlq := &memory{}
	f := newFixture(t, settings, &server{answer: always(errors.New("refused"))}, dlq)
	dlq.breakWith(errors.New("disk full"))
	f.record(events(0, 25)...)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := f.Close(ctx)
	if err == nil || !strings.Contains(err.Error(), "25 events are in memory only") || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("error is %v", err)
	}
	if again := f.Close(t.Context()); !errors.Is(again, err) {
		t.Errorf("second Close returned %v", again)
	}
	f.want(25, 0, 25, 0, 0)
}

func TestTheLogHasTheStartAndCloseLinesAndIsQuietBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{}, &memory{})
		f.start()
		advance(time.Hour)
		if len(f.lines) != 1 {
			t.Errorf("an idle hour logged %q", f.lines)
		}
		f.record(event(1))
		f.end()
		synctest.Wait()
		f.finish()
		for _, want := range []string{
			`"logger":"audit-store","level":0,"msg":"Audit background writer started","flush_interval":"100ms","batch_size":10,"buffer_size":1000,"start_time":"`,
			`"msg":"Audit background writer stopped","total_runtime":"1h0m0s","total_ticks":36000`,
			`"msg":"Audit store closed","buffered_count":1,"written_count":1,"dropped_count":0,"failed_batch_count":0,"retried_count":0,"spilled_count":0,"replayed_count":0,"rejected_count":0,"dlq_count":0`,
		} {
			f.line(want)
		}
	})
}
