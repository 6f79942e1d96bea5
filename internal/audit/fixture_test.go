package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var settings = Config{BufferSize: 1000, BatchSize: 10, FlushInterval: 100 * time.Millisecond, MaxRetries: 3}

func event(n int) Event {
	return Event{
		EventID: EventID("test", fmt.Sprint(n)), Version: "1.0", EventType: TypeMessageSent,
		EventTimestamp: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), EventCategory: "notification",
		EventAction: "sent", EventOutcome: OutcomeSuccess, ResourceID: fmt.Sprint("request-", n), CorrelationID: "c",
		EventData: json.RawMessage(fmt.Sprintf(`{"notification_uid":"uid-%d","channel":"ops","attempt":1,"content_digest":"d"}`, n)),
	}
}

func events(from, to int) []Event {
	var list []Event
	for n := from; n < to; n++ {
		list = append(list, event(n))
	}
	return list
}

// server is a DataStorage that answers as the test tells it to.

type server struct {
	// answer may return an error for the nth request, from 1; errCut stores the
	// batch first. It runs without the lock and may block.
	answer func(ctx context.Context, n int, batch []Event) error
	// checkpoint may return one for so many more events.
	checkpoint func(n int) string

	mu    sync.Mutex
	rows  map[uuid.UUID]int // how often each event was sent and taken
	posts []post
	busy  int
	peak  int
}

type post struct {
	at   time.Time
	size int
	body string
}

var errCut = errors.New("EOF")

func (s *server) Post(ctx context.Context, batch []Event) (Ack, error) {
	body, _ := json.Marshal(batch)
	s.mu.Lock()
	s.posts = append(s.posts, post{time.Now(), len(batch), string(body)})
	n := len(s.posts)
	s.busy++
	s.peak = max(s.peak, s.busy)
	s.mu.Unlock()
	var err error
	if s.answer != nil {
		err = s.answer(ctx, n, batch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if err != nil && !errors.Is(err, errCut) {
		return Ack{}, err
	}
	if s.rows == nil {
		s.rows = map[uuid.UUID]int{}
	}
	var ack Ack
	for _, e := range batch {
		if s.rows[e.EventID] > 0 {
			ack.Duplicates++
		}
		s.rows[e.EventID]++
		ack.LogIndices = append(ack.LogIndices, int64(len(s.rows)-1))
	}
	if s.checkpoint != nil {
		ack.Checkpoint = s.checkpoint(len(batch))
	}
	return ack, err
}

func (s *server) sizes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sizes []int
	for _, p := range s.posts {
		sizes = append(sizes, p.size)
	}
	return sizes
}

func (s *server) times(start time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var times []time.Duration
	for _, p := range s.posts {
		times = append(times, p.at.Sub(start))
	}
	return times
}

// memory is a DLQ that outlives the stores of a test, can be broken, and can be
// shared with processes that the test does not have.

type memory struct {
	// onPut runs without the lock before a write, and may block or fail it.
	onPut func(batch []Event) error

	mu       sync.Mutex
	broken   error
	room     int // how many events may wait, 0 for any number
	waiting  []Event
	attempts map[uuid.UUID]int
	rejected []refusal
	puts     []int // sizes
	looks    int   // calls of Next
}

type refusal struct {
	Rejection
	due time.Time
}

func (m *memory) Put(_ context.Context, batch []Event) (int, error) {
	if m.onPut != nil {
		if err := m.onPut(batch); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts = append(m.puts, len(batch))
	if m.broken != nil {
		return 0, m.broken
	}
	fresh := m.unknown(batch)
	if m.room > 0 && len(m.waiting)+len(fresh) > m.room {
		return 0, errors.New("the queue is full")
	}
	m.waiting = append(m.waiting, fresh...)
	return len(fresh), nil
}

// unknown returns the events that do not wait.
func (m *memory) unknown(batch []Event) []Event {
	known := map[uuid.UUID]bool{}
	for _, e := range m.waiting {
		known[e.EventID] = true
	}
	var fresh []Event
	for _, e := range batch {
		if !known[e.EventID] {
			known[e.EventID] = true
			fresh = append(fresh, e)
		}
	}
	return fresh
}

func (m *memory) Next(_ context.Context, limit int) ([]Event, Depth, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	if m.broken != nil {
		return nil, Depth{}, m.broken
	}
	m.rejected = slices.DeleteFunc(m.rejected, func(r refusal) bool {
		if r.due.After(time.Now()) {
			return false
		}
		m.waiting = append(m.waiting, m.unknown([]Event{r.Event})...)
		return true
	})
	if m.attempts == nil {
		m.attempts = map[uuid.UUID]int{}
	}
	next := slices.Clone(m.waiting)
	slices.SortStableFunc(next, func(a, b Event) int { return m.attempts[a.EventID] - m.attempts[b.EventID] })
	next = next[:min(limit, len(next))]
	for _, e := range next {
		m.attempts[e.EventID]++
	}
	return next, m.depth(), nil
}

func (m *memory) depth() Depth { return Depth{Waiting: len(m.waiting), Rejected: len(m.rejected)} }

func (m *memory) Settle(_ context.Context, recorded []uuid.UUID, rejected []Rejection) (Depth, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return Depth{}, m.broken
	}
	gone := map[uuid.UUID]bool{}
	for _, id := range recorded {
		gone[id] = true
	}
	for _, r := range rejected {
		gone[r.Event.EventID] = true
		m.rejected = slices.DeleteFunc(m.rejected, func(old refusal) bool { return old.Event.EventID == r.Event.EventID })
		m.rejected = append(m.rejected, refusal{r, time.Now().Add(RejectedRecheck)})
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(e Event) bool { return gone[e.EventID] })
	return m.depth(), nil
}

func (m *memory) breakWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
}

// limit sets how many events may wait, 0 for any number.
func (m *memory) limit(room int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.room = room
}

// reopen is what a new process does: what another rejected is due at once.
func (m *memory) reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.rejected {
		m.rejected[i].due = time.Time{}
	}
}

// leave has another process leave events to this one, and takeOver has it take
// up to n of the waiting events and returns them.

func (m *memory) leave(list ...Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = append(m.waiting, m.unknown(list)...)
}

func (m *memory) takeOver(n int) []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, len(m.waiting))
	taken := slices.Clone(m.waiting[:n])
	m.waiting = slices.Delete(m.waiting, 0, n)
	return taken
}

// fixture is a store with all that it is connected to.

type fixture struct {
	*Store
	t        *testing.T
	server   *server
	dlq      *memory
	mu       sync.Mutex
	receipts map[uuid.UUID]Receipt
	lines    []string
	end      context.CancelFunc
}

func newFixture(t *testing.T, cfg Config, srv *server, dlq *memory) *fixture {
	t.Helper()
	f := &fixture{t: t, server: srv, dlq: dlq, receipts: map[uuid.UUID]Receipt{}}
	dlq.reopen()
	log := funcr.NewJSON(func(line string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lines = append(f.lines, line)
	}, funcr.Options{})
	store, err := NewStore(cfg, srv, dlq, Options{Log: log, OnReceipts: func(list []Receipt) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, r := range list {
			f.receipts[r.EventID] = r
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	f.Store = store
	return f
}

func (f *fixture) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.end = cancel
	go func() {
		if err := f.Start(ctx); err != nil {
			f.t.Errorf("Start: %v", err)
		}
	}()
	synctest.Wait()
}

func (f *fixture) record(list ...Event) {
	f.t.Helper()
	for _, e := range list {
		if err := f.Record(e); err != nil {
			f.t.Fatalf("Record: %v", err)
		}
	}
}

// finish ends the store and checks what must hold at every end.

func (f *fixture) finish() {
	f.t.Helper()
	if f.end != nil {
		f.end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f.Close(ctx); err != nil {
		f.t.Errorf("Close: %v", err)
	}
	f.balanced()
}

func (f *fixture) balanced() {
	f.t.Helper()
	stats := f.Stats()
	if d := stats.Difference(); d != 0 {
		f.t.Errorf("%d events are unaccounted for: %+v", d, stats)
	}
}

// want compares the counts that make up the balance.

func (f *fixture) want(recorded, committed, buffered, dead, rejected int) {
	f.t.Helper()
	s := f.Stats()
	got := []int{s.Recorded, s.Committed, s.Buffered, s.DeadLettered, s.Rejected}
	if diff := cmp.Diff([]int{recorded, committed, buffered, dead, rejected}, got); diff != "" {
		f.t.Errorf("recorded, committed, buffered, dead-lettered, rejected (-want +got):\n%s", diff)
	}
}

func (f *fixture) count(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Count(strings.Join(f.lines, "\n"), text)
}

func (f *fixture) line(text string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lines {
		if strings.Contains(l, text) {
			return l
		}
	}
	f.t.Errorf("no log line has %q", text)
	return ""
}

func always(err error) func(context.Context, int, []Event) error {
	return func(context.Context, int, []Event) error { return err }
}

// advance lets time pass. It is for the bubbles of synctest, where time is
// virtual and this does not wait.
func advance(d time.Duration) { <-time.After(d) }
