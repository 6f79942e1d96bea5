package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// TestNoOrderOfFaultsLosesAnEvent runs random sequences of recording, waiting,
// faults of DataStorage and of the disk, process deaths and closes, and then
// lets the faults stop: every event that a living store took on, or that a dead
// one had on disk, is in DataStorage once or on the rejected side.
func TestNoOrderOfFaultsLosesAnEvent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "faults")
		steps := rapid.SliceOfN(rapid.IntRange(0, 99), 5, 60).Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = run(t, seed, steps) })
		if len(problems) > 0 {
			rt.Fatal(problems)
		}
	})
}

func run(t *testing.T, seed uint64, steps []int) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	random, faults := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1)) // faults belongs to srv.mu
	var faulty int                                                                   // percent of requests
	srv := &server{}
	srv.answer = func(_ context.Context, _ int, batch []Event) error {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if faults.IntN(100) >= faulty {
			return invalid(batch)
		}
		return []error{
			errCut, errors.New("reset"), &PostError{Status: 503, RetryAfter: time.Second},
			&PostError{Status: 429, RetryAfter: time.Minute}, &PostError{Status: 413}, &PostError{Status: 401},
		}[faults.IntN(6)]
	}
	fail := func(percent int) {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		faulty = percent
	}
	cfg := Config{BufferSize: 20, BatchSize: 10, FlushInterval: 100 * time.Millisecond, MaxRetries: 1}
	dlq := &memory{}
	owed := map[uuid.UUID]bool{}
	f := newFixture(t, cfg, srv, dlq)
	f.start()
	next := 0
	for _, step := range steps {
		switch {
		case step < 60:
			for range step {
				e := event(random.IntN(next + 2)) // some for a second time
				next++
				if f.Record(e) == nil {
					owed[e.EventID] = true
				}
			}
		case step < 80:
			advance(time.Duration(step-59) * 300 * time.Millisecond)
		case step < 88:
			fail([]int{0, 20, 100}[step%3])
		case step < 92:
			dlq.breakWith(errors.New("disk full"))
		case step < 96:
			dlq.breakWith(nil)
		default:
			dlq.breakWith(nil)
			f.finish()
			f = newFixture(t, cfg, srv, dlq)
			f.start()
		}
		synctest.Wait()
		if d := f.Stats().Difference(); d != 0 {
			problem("%d events are unaccounted for: %+v", d, f.Stats())
		}
	}
	fail(0)
	dlq.breakWith(nil)
	advance(10 * time.Minute)
	synctest.Wait()
	if s := f.Stats(); s.Buffered+s.DeadLettered != 0 {
		problem("the faults are over and events wait: %+v", s)
	}
	f.finish()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, r := range dlq.rejected {
		if invalid([]Event{r.Event}) != nil || r.Status == 413 {
			delete(owed, r.Event.EventID)
		}
	}
	for id := range srv.rows {
		delete(owed, id)
	}
	if len(owed) > 0 {
		problem("%d events are lost: %v", len(owed), slices.Collect(maps.Keys(owed)))
	}
	return problems
}

// invalid refuses every batch with an event whose ID begins with a certain byte.
func invalid(batch []Event) error {
	answer := &PostError{Status: 400, Reason: "invalid"}
	for i, e := range batch {
		if e.EventID[0]%16 == 0 {
			answer.Faults = append(answer.Faults, Fault{Index: i, Detail: "invalid"})
		}
	}
	if len(answer.Faults) == 0 {
		return nil
	}
	return answer
}
