package audit

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

func TestTheGateOpensWithinASecondOfReadinessAndSaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		log := funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{})
		up := time.Now().Add(time.Hour + 300*time.Millisecond)
		calls := 0
		gate := NewGate(func(context.Context) error {
			calls++
			if time.Now().Before(up) {
				return errors.New("http://datastorage:8080/readyz answered 503: no database")
			}
			return nil
		}, log)
		if err := gate.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if late := time.Since(up); late < 0 || late > time.Second {
			t.Errorf("it opened %s after DataStorage was ready", late)
		}
		if n := len(lines); n < 360 || n > 725 {
			t.Errorf("%d lines in an hour, want one every few seconds", n)
		}
		if !strings.Contains(lines[0], "503: no database") {
			t.Errorf("first line is %s", lines[0])
		}
		asked := calls
		if err := gate.WaitForSync(t.Context()); err != nil || calls != asked {
			t.Errorf("open gate: error %v, DataStorage was asked %d times more", err, calls-asked)
		}
	})
}

func TestAHangingAnswerDoesNotHoldTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		gate := NewGate(func(ctx context.Context) error {
			if calls++; calls == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, logr.Discard())
		start := time.Now()
		if err := gate.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != gateTimeout+gatePoll {
			t.Errorf("it opened after %s", took)
		}
	})
}

func TestTheClosedGateLetsNoWorkerGoWhenTheManagerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := NewGate(func(context.Context) error { return errors.New("refused") }, logr.Discard())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := gate.WaitForSync(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestReadinessHasTheReasonUntilTheGateOpensAndNeverAgain(t *testing.T) {
	var reason atomic.Pointer[error]
	fail := func(err error) { reason.Store(&err) }
	gate := NewGate(func(context.Context) error { return *reason.Load() }, logr.Discard())
	req := httptest.NewRequest(http.MethodGet, "/readyz", nil)
	fail(errors.New("no database"))
	if err := gate.Check(req); err == nil || !strings.Contains(err.Error(), "no database") {
		t.Errorf("error is %v", err)
	}
	fail(nil)
	if err := gate.Check(req); err != nil {
		t.Errorf("error is %v", err)
	}
	fail(errors.New("no database"))
	if err := gate.Check(req); err != nil {
		t.Errorf("the open gate has closed: %v", err)
	}
}

func TestFreshIsAskedOnDemandAndHoldsForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		var down atomic.Bool
		gate := NewGate(func(context.Context) error {
			calls.Add(1)
			if down.Load() {
				return errors.New("no database")
			}
			return nil
		}, logr.Discard())
		ask := func(wantCalls int32, wantErr string) {
			t.Helper()
			err := gate.Fresh(t.Context())
			if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
				t.Errorf("error is %v, want %q", err, wantErr)
			}
			if n := calls.Load(); n != wantCalls {
				t.Errorf("DataStorage was asked %d times, want %d", n, wantCalls)
			}
		}
		pass := func(d time.Duration) { pause(t.Context(), d, nil) }
		pass(time.Hour)
		ask(1, "")
		down.Store(true)
		pass(freshFor - 1)
		ask(1, "")
		pass(1)
		ask(2, "no database")
		ask(3, "no database")
		down.Store(false)
		ask(4, "")
		pass(time.Hour)
		ask(5, "")
		if err := gate.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		pass(freshFor)
		ask(7, "no database")
		if err := gate.Check(httptest.NewRequest(http.MethodGet, "/readyz", nil)); err != nil {
			t.Errorf("the open gate has closed for the workers: %v", err)
		}
	})
}

func TestThoseWhoAskTogetherShareOneBoundedQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		gate := NewGate(func(ctx context.Context) error {
			calls.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}, logr.Discard())
		start := time.Now()
		// The first to ask gives up early, which must not spoil the answer of the others.
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make(chan error, 20)
		for i := range 20 {
			ctx := t.Context()
			if i == 0 {
				ctx = hurried
			}
			go func() { errs <- gate.Fresh(ctx) }()
			synctest.Wait()
		}
		if err := <-errs; err == nil || time.Since(start) != time.Second {
			t.Errorf("who gave up got %v after %s", err, time.Since(start))
		}
		for range 19 {
			if err := <-errs; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error is %v", err)
			}
		}
		if took := time.Since(start); took != gateTimeout || calls.Load() != 1 {
			t.Errorf("%d questions took %s", calls.Load(), took)
		}
	})
}

func TestAnOutageOfTheStoreIsToldAndEndsSoonAfterItIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		f := newFixture(t, settings, &server{answer: func(context.Context, int, []Event) error {
			if up.Load() {
				return nil
			}
			return errors.New("connection refused")
		}}, &memory{})
		f.start()
		if err := f.Outage(); err != nil {
			t.Errorf("before anything failed: %v", err)
		}
		f.record(events(0, 10)...)
		advance(time.Minute)
		synctest.Wait()
		up.Store(true)
		asked := len(f.server.sizes())
		if err := f.Outage(); err == nil {
			t.Error("no error though events wait and nothing was answered")
		}
		synctest.Wait()
		if err := f.Outage(); err != nil || len(f.server.sizes()) == asked {
			t.Errorf("%v after %d requests more", err, len(f.server.sizes())-asked)
		}
		f.finish()
		f.want(10, 10, 0, 0, 0)
	})
}

func TestAnOutageIsOverWhereNoEventWaitsForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, settings, &server{answer: always(errors.New("connection refused"))}, &memory{})
		f.start()
		f.record(events(0, 10)...)
		advance(time.Minute)
		// Another process has taken the events over and sent them, so that this
		// one has nothing left to ask with.
		f.dlq.takeOver(10)
		advance(time.Minute)
		synctest.Wait()
		if err := f.Outage(); err != nil {
			t.Errorf("error is %v", err)
		}
		f.finish()
	})
}

func TestAnOutageLastsWhileCredentialsAreRefusedOrAPauseIsAskedFor(t *testing.T) {
	for name, answer := range map[string]*PostError{
		"401": {Status: 401, Reason: "the token is not known"},
		"429": {Status: 429, Reason: "too many requests", RetryAfter: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, settings, &server{answer: func(_ context.Context, n int, _ []Event) error {
					if n == 1 {
						return answer
					}
					return nil
				}}, &memory{})
				f.start()
				f.record(events(0, 10)...)
				synctest.Wait()
				for range 2 {
					if err := f.Outage(); err == nil {
						t.Error("no error")
					}
					synctest.Wait()
				}
				if n := len(f.server.sizes()); n != 1 {
					t.Errorf("%d requests, want no more than the pause allows", n)
				}
				advance(2 * time.Minute)
				if err := f.Outage(); err != nil {
					t.Errorf("error is %v", err)
				}
				f.finish()
			})
		})
	}
}
