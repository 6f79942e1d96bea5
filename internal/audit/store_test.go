package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
		{`--audit-log-key is "key"; a public key is one line: a name, a hash and the key in base64, with a + between them`, func(c *Config) { c.LogKey = "key" }},
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

func TestWhatIsUnaccountedForShowsInTheMetrics(t *testing.T) {
	lost := newMetrics(func() Stats {
		return Stats{Recorded: 100, Committed: 40, Buffered: 20, DeadLettered: 10, Rejected: 5}
	})
	if got := testutil.CollectAndCompare(lost, strings.NewReader(`
# HELP notification_audit_conservation_difference Recorded less committed, buffered, dead-lettered and rejected audit events; anything but 0 is a fault of the program.
# TYPE notification_audit_conservation_difference gauge
notification_audit_conservation_difference 25
`), "notification_audit_conservation_difference"); got != nil {
		t.Error(got)
	}
}

func TestMetricsAddUpAndFollowTheConventions(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	dlq := &memory{waiting: events(0, 2), rejected: []refusal{{Rejection: Rejection{Event: event(2)}}}}
	store, err := NewStore(settings, &server{}, dlq, Options{Log: logr.Discard(), Metrics: registry})
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
	var names []string
	for _, m := range []struct{ name, kind, help, value string }{
		{"buffered_events", "gauge", "Audit events in memory, those in flight included.", "3"},
		{"conservation_difference", "gauge", "Recorded less committed, buffered, dead-lettered and rejected audit events; anything but 0 is a fault of the program.", "0"},
		{"dead_letters", "gauge", "Audit events in the dead-letter queue, without the rejected ones.", "2"},
		{"recorded_total", "counter", "Audit events taken on, copies of one event included.", "6"},
		{"rejected_events", "gauge", "Rejected audit events in the dead-letter queue, which are offered again from time to time.", "1"},
		{"rejected_total", "counter", "Audit events that DataStorage rejected and that are kept with its reason.", "0"},
	} {
		name := "notification_audit_" + m.name
		names = append(names, name)
		fmt.Fprintf(&want, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, m.help, name, m.kind, name, m.value)
	}
	if err := testutil.GatherAndCompare(registry, &want, names...); err != nil {
		t.Error(err)
	}
	if err := store.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
