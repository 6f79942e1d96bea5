package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// TestNoOrderOfFaultsLosesAnEvent runs random sequences of recording, waiting,
// faults of DataStorage and of the DLQ, closes, and other processes that leave
// events in the DLQ or take them from there, and then lets the faults stop:
// every event that the store took on, or was left, is in DataStorage or on the
// rejected side, and once its cause is mended, in DataStorage. The model is the
// set of events that are owed; the counts add up after every step.
func TestNoOrderOfFaultsLosesAnEvent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "faults")
		steps := rapid.SliceOfN(rapid.IntRange(0, 119), 5, 60).Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = newModel(t, seed).run(steps) })
		if len(problems) > 0 {
			rt.Fatal(problems)
		}
	})
}

type model struct {
	*fixture
	cfg      Config
	random   *rand.Rand
	next     int
	owed     map[uuid.UUID]bool
	recorded int // as the metric has it, which may never fall
	problems []string

	mu     sync.Mutex
	faults *rand.Rand
	faulty int // percent of requests
	mended bool
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		cfg:    Config{BufferSize: 20, BatchSize: 10, FlushInterval: 100 * time.Millisecond, MaxRetries: 1},
		random: rand.New(rand.NewPCG(seed, 0)), faults: rand.New(rand.NewPCG(seed, 1)),
		owed: map[uuid.UUID]bool{},
	}
	m.fixture = newFixture(t, m.cfg, &server{answer: m.answer}, &memory{})
	m.start()
	return m
}

func (m *model) answer(_ context.Context, _ int, batch []Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.faults.IntN(100) < m.faulty:
		return []error{
			errCut, errors.New("reset"), &PostError{Status: 503, RetryAfter: time.Second},
			&PostError{Status: 429, RetryAfter: time.Minute}, &PostError{Status: 413}, &PostError{Status: 401},
		}[m.faults.IntN(6)]
	case m.mended:
		return nil
	}
	return invalid(batch)
}

func (m *model) set(faulty int, mended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faulty, m.mended = faulty, mended
}

// event is a new one, or for one in a while one that there was.
func (m *model) event() Event {
	m.next++
	return event(m.random.IntN(m.next + 1))
}

func (m *model) step(step int) {
	switch {
	case step < 60:
		for range step {
			if e := m.event(); m.Record(e) == nil {
				m.owed[e.EventID] = true
			}
		}
	case step < 80:
		advance(time.Duration(step-59) * 300 * time.Millisecond)
	case step < 88:
		m.set([]int{0, 20, 100}[step%3], false)
	case step < 91:
		m.dlq.breakWith(errors.New("disk full"))
	case step < 94:
		m.dlq.limit(10 * (step - 90))
	case step < 98:
		m.dlq.breakWith(nil)
		m.dlq.limit(0)
	case step < 104:
		for range step - 97 {
			e := m.event()
			m.dlq.leave(e)
			m.owed[e.EventID] = true
		}
	case step < 110:
		for _, e := range m.dlq.takeOver(step - 103) {
			delete(m.owed, e.EventID)
		}
	case step < 114:
		advance(time.Duration(step-109) * 5 * time.Minute)
	default:
		m.dlq.breakWith(nil)
		m.dlq.limit(0)
		m.finish()
		m.fixture, m.recorded = newFixture(m.t, m.cfg, m.server, m.dlq), 0
		m.start()
	}
}

func (m *model) run(steps []int) []string {
	for _, step := range steps {
		m.step(step)
		m.check()
	}
	m.set(0, false)
	m.dlq.breakWith(nil)
	m.dlq.limit(0)
	// What was refused for its size alone is offered again, too.
	advance(RejectedRecheck + dlqLook)
	m.check()
	if s := m.Stats(); s.Buffered+s.DeadLettered != 0 {
		m.problem("the faults are over and events wait: %+v", s)
	}
	for id := range m.owed {
		if m.server.rows[id] == 0 && id[0]%16 != 0 {
			m.problem("event %s is neither in DataStorage nor to be rejected", id)
		}
	}
	m.set(0, true)
	advance(RejectedRecheck + dlqLook)
	m.check()
	m.finish()
	if s := m.Stats(); s.Recorded != s.Committed {
		m.problem("the causes are mended and events are rejected: %+v", s)
	}
	for id := range m.owed {
		if m.server.rows[id] == 0 {
			m.problem("event %s is lost", id)
		}
	}
	return m.problems
}

func (m *model) check() {
	synctest.Wait()
	s := m.Stats()
	if s.Difference() != 0 || min(s.Buffered, s.DeadLettered, s.Rejected, s.Merged) < 0 {
		m.problem("%d events are unaccounted for: %+v", s.Difference(), s)
	}
	m.Store.mu.Lock()
	bytes, held := m.bytes, len(m.held)
	m.Store.mu.Unlock()
	if s.Buffered == 0 && bytes+held != 0 {
		m.problem("nothing is in memory, but %d bytes and %d events are held", bytes, held)
	}
	if s.Recorded+s.Merged < m.recorded {
		m.problem("the recorded events fell from %d to %d", m.recorded, s.Recorded+s.Merged)
	}
	m.recorded = s.Recorded + s.Merged
	// A batch is never more than what the buffer has.
	if most := m.cfg.BufferSize * (1 + maxInFlight); s.Buffered > most {
		m.problem("%d events are in memory, at most %d may be", s.Buffered, most)
	}
}

func (m *model) problem(format string, args ...any) {
	m.problems = append(m.problems, fmt.Sprintf(format, args...))
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
