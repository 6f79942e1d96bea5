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
