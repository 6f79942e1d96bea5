package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestSettingsThatAreNotAllowedNameTheirFlag(t *testing.T) {
	for _, tc := range []struct {
		flag   string
		change func(*Config)
	}{
		{"--audit-batch-size is 9; allowed is 10 to 1000", func(c *Config) { c.BatchSize = 9 }},
		{"--audit-batch-size is 1001; allowed is 10 to 1000", func(c *Config) { c.BatchSize, c.BufferSize = 1001, 2000 }},
		{"--audit-buffer-size is 99; allowed is --audit-batch-size (100) to 1000000", func(c *Config) { c.BatchSize, c.BufferSize = 100, 99 }},
		{"--audit-flush-interval is 0s; allowed is 1ms to 1m", func(c *Config) { c.FlushInterval = 0 }},
		{"--audit-max-retries is -1; allowed is 0 to 20", func(c *Config) { c.MaxRetries = -1 }},
	} {
		cfg := settings
		tc.change(&cfg)
		if _, err := NewStore(cfg, nil, nil, Options{Log: logr.Discard()}); err == nil || err.Error() != tc.flag {
			t.Errorf("error is %v, want %s", err, tc.flag)
		}
	}
	if err := settings.Validate(); err != nil {
		t.Error(err)
	}
}

func TestAnInvalidEventIsRefusedWithItsViolations(t *testing.T) {
	f := newFixture(t, settings, &server{}, &memory{})
	e := event(1)
	e.EventOutcome, e.CorrelationID = "perhaps", ""
	err := f.Record(e)
	if err == nil || !strings.Contains(err.Error(), "/event_outcome") || !strings.Contains(err.Error(), "/correlation_id") {
		t.Errorf("error is %v", err)
	}
	f.want(0, 0, 0, 0, 0)
	f.finish()
}

func TestAnEventIsTakenOnceWhileTheStoreHoldsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &server{answer: func(context.Context, int, []Event) error { <-open; return nil }}
		f := newFixture(t, settings, srv, &memory{waiting: events(0, 1)})
		f.record(event(0), event(1), event(1))
		f.want(3, 0, 2, 1, 0)
		f.start()
		advance(time.Second)
		f.record(event(0), event(1)) // in flight
		close(open)
		advance(time.Second)
		synctest.Wait()
		// The copy in the DLQ was found when the other was committed.
		f.want(2, 2, 0, 0, 0)
		if n := f.Stats().Merged; n != 1 {
			t.Errorf("%d copies merged, want 1", n)
		}
		for id, n := range srv.rows {
			if n != 1 {
				t.Errorf("event %s was sent %d times", id, n)
			}
		}
		f.finish()
	})
}

func TestAnEventRecordedAgainDuringAnOutageIsSpilledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{answer: always(errors.New("refused"))}, &memory{})
		f.start()
		for range 5 {
			f.record(events(0, 20)...)
			advance(10 * time.Second)
			synctest.Wait()
			f.balanced()
		}
		f.want(20, 0, 0, 20, 0)
		f.finish()
	})
}

func TestTheFullBufferSpillsAndABrokenDLQMakesRecordFail(t *testing.T) {
	cfg := settings
	cfg.BufferSize = 10
	dlq := &memory{}
	f := newFixture(t, cfg, &server{}, dlq)
	f.record(events(0, 12)...)
	f.want(12, 0, 10, 2, 0)
	full := errors.New("disk full")
	dlq.breakWith(full)
	if err := f.Record(event(12)); !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
	f.want(12, 0, 10, 2, 0)
	dlq.breakWith(nil)
	f.record(event(12))
	f.want(13, 0, 10, 3, 0)
	f.finish()
	f.want(13, 10, 0, 3, 0)
}

func TestMetricsAddUpAndFollowTheConventions(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	store, err := NewStore(settings, &server{}, &memory{waiting: events(0, 2)}, Options{Log: logr.Discard(), Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events(10, 13) {
		if err := store.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	var want bytes.Buffer
	for _, m := range []struct{ name, kind, help, value string }{
		{"buffered_events", "gauge", "Audit events in memory, those in flight included.", "3"},
		{"conservation_difference", "gauge", "Recorded less committed, buffered, dead-lettered and rejected audit events; anything but 0 is a fault of the program.", "0"},
		{"dead_letters", "gauge", "Audit events in the dead-letter queue, without the rejected ones.", "2"},
	} {
		name := "notification_audit_" + m.name
		fmt.Fprintf(&want, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, m.help, name, m.kind, name, m.value)
	}
	if err := testutil.GatherAndCompare(registry, &want, "notification_audit_buffered_events",
		"notification_audit_conservation_difference", "notification_audit_dead_letters"); err != nil {
		t.Error(err)
	}
	if err := store.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func BenchmarkRecord(b *testing.B) {
	cfg := Config{BufferSize: 20_000, BatchSize: 100, FlushInterval: 100 * time.Millisecond}
	store, err := NewStore(cfg, nothing{}, &memory{}, Options{Log: logr.Discard()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- store.Start(ctx) }()
	e := event(1)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		for i := range 8 {
			e.EventID[i] = byte(n >> (8 * i))
		}
		if err := store.Record(e); err != nil {
			b.Fatal(err)
		}
		if n%10_000 == 9_999 {
			b.StopTimer()
			for store.Stats().Buffered > 0 {
				runtime.Gosched()
			}
			b.StartTimer()
		}
	}
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if err := store.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

type nothing struct{}

func (nothing) Post(context.Context, []Event) (Ack, error) { return Ack{}, nil }

func TestLargeEventsFillTheBufferByTheirBytes(t *testing.T) {
	queue := &memory{}
	f := newFixture(t, Config{BufferSize: 1000, BatchSize: 100, FlushInterval: time.Minute, MaxRetries: 3}, &server{}, queue)
	data := json.RawMessage(`{"text":"` + strings.Repeat("x", 200<<10) + `"}`)
	const all = 200
	for n := range all {
		e := event(n)
		e.EventData = data
		if err := f.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	most := maxBufferBytes / len(data)
	if got := f.Stats().Buffered; got > most || got < most-5 {
		t.Errorf("%d events of %d bytes wait in memory, want %d or little fewer", got, len(data), most)
	}
	if got := f.Stats().Buffered + f.Stats().DeadLettered; got != all {
		t.Errorf("the store holds %d events, want %d", got, all)
	}
	f.mu.Lock()
	batch := f.take()
	f.mu.Unlock()
	f.giveBack(batch)
	if size := len(batch) * len(data); size > maxBatchBytes || len(batch) == 0 {
		t.Errorf("a batch has %d events and %d bytes, want at most %d", len(batch), size, maxBatchBytes)
	}
	f.finish()
}
