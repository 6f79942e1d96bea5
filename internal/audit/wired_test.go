package audit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/audit/dlq"
)

// The parts as they are wired in the manager: the real client, the real queue
// on disk, and a DataStorage on a real connection that fails as told.

var settings = audit.Config{BufferSize: 1000, BatchSize: 10, FlushInterval: 100 * time.Millisecond, MaxRetries: 3}

func event(n int) audit.Event {
	return audit.Event{
		EventID: audit.EventID("wired", fmt.Sprint(n)), Version: "1.0", EventType: audit.TypeMessageSent, EventTimestamp: time.UnixMicro(int64(n) + 1).UTC(),
		EventCategory: "notification", EventAction: "sent", EventOutcome: audit.OutcomeSuccess, CorrelationID: "c",
		EventData: json.RawMessage(`{"notification_uid":"u"}`),
	}
}

// fault is what happens to one request; cutAfterCommit and reset end the connection.
type fault int

const (
	none fault = iota
	eof
	reset
	cutAfterCommit
	unavailable
	accepted
)

type dataStorage struct {
	*httptest.Server
	next func(request int) fault

	mu       sync.Mutex
	requests int
	index    map[uuid.UUID]int64
	resent   int // events that were stored already when they came
}

func newDataStorage(t *testing.T, next func(int) fault) *dataStorage {
	d := &dataStorage{next: next, index: map[uuid.UUID]int64{}}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

func (d *dataStorage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var batch []audit.Event
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	f := d.next(d.requests)
	if f == eof || f == reset {
		cut(w, f)
		return
	}
	if f == unavailable {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var answer struct {
		EventIDs   []string `json:"event_ids"`
		LogIndices []int64  `json:"log_indices"`
		Duplicates int      `json:"duplicates"`
	}
	for _, e := range batch {
		if _, ok := d.index[e.EventID]; ok {
			answer.Duplicates++
			d.resent++
		} else {
			d.index[e.EventID] = int64(len(d.index))
		}
		answer.EventIDs = append(answer.EventIDs, e.EventID.String())
		answer.LogIndices = append(answer.LogIndices, d.index[e.EventID])
	}
	switch f {
	case cutAfterCommit:
		cut(w, reset)
	case accepted:
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"status":"accepted"}`)
	default:
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(answer)
	}
}

func cut(w http.ResponseWriter, f fault) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok && f == reset {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// process is one life of the manager as far as audit goes.
type process struct {
	*audit.Store
	queue *dlq.File
	end   context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex
	indexes map[uuid.UUID]*int64
	settled *sync.Cond
}

func start(t *testing.T, url, dir string) *process {
	t.Helper()
	c, err := client.New(client.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	queue, err := dlq.Open(dir, 256<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	p := &process{queue: queue, ended: make(chan struct{}), indexes: map[uuid.UUID]*int64{}}
	p.settled = sync.NewCond(&p.mu)
	p.Store, err = audit.NewStore(settings, c, queue, audit.Options{Log: logr.Discard(), OnReceipts: func(list []audit.Receipt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range list {
			p.indexes[r.EventID] = r.LogIndex
		}
		p.settled.Broadcast()
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	go func() {
		defer close(p.ended)
		if err := p.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	return p
}

// wait returns when the given number of events has its receipt.
func (p *process) wait(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.indexes) < n {
		p.settled.Wait()
	}
}

func (p *process) stop(t *testing.T, within time.Duration) audit.Stats {
	t.Helper()
	p.end()
	<-p.ended
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := p.queue.Close(); err != nil {
		t.Error(err)
	}
	stats := p.Stats()
	if d := stats.Difference(); d != 0 {
		t.Errorf("%d events are unaccounted for: %+v", d, stats)
	}
	return stats
}

func (d *dataStorage) holds(t *testing.T, n int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.index) != n {
		t.Errorf("DataStorage holds %d events, want %d", len(d.index), n)
	}
}

func TestTheResetsOfAStartingDataStorageCostNothing(t *testing.T) {
	d := newDataStorage(t, func(n int) fault {
		return map[int]fault{1: eof, 2: reset, 3: reset}[n]
	})
	p := start(t, d.URL, t.TempDir())
	for n := range 9 {
		if err := p.Record(event(n)); err != nil {
			t.Fatal(err)
		}
	}
	p.wait(9)
	stats := p.stop(t, time.Second)
	d.holds(t, 9)
	if d.resent != 0 || stats.Committed != 9 || stats.Recorded != 9 || stats.Retried != 3 || stats.FailedBatches != 0 {
		t.Errorf("%d events came twice; counts are %+v", d.resent, stats)
	}
}

func TestAnswersLostAfterTheCommitDoNotDouble(t *testing.T) {
	d := newDataStorage(t, func(n int) fault {
		switch {
		case n <= 2:
			return cutAfterCommit
		case n == 4:
			return accepted
		}
		return none
	})
	p := start(t, d.URL, t.TempDir())
	for n := range 27 {
		if err := p.Record(event(n)); err != nil {
			t.Fatal(err)
		}
	}
	p.wait(27)
	stats := p.stop(t, time.Second)
	d.holds(t, 27)
	if stats.Committed != 27 || d.resent == 0 {
		t.Errorf("%d events came twice; counts are %+v", d.resent, stats)
	}
}

func TestNothingIsLostOrDoubledInAnOutageUnderLoad(t *testing.T) {
	var mu sync.Mutex
	down := true
	d := newDataStorage(t, func(int) fault {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return reset
		}
		return none
	})
	const each, all = 2500, 8 * 2500
	p := start(t, d.URL, t.TempDir())
	var producers sync.WaitGroup
	for producer := range 8 {
		producers.Go(func() {
			for n := range each {
				if err := p.Record(event(producer*each + n)); err != nil {
					t.Error(err)
				}
				// No batch is larger than the buffer that it was taken from.
				if got, most := p.Stats().Buffered, 5*settings.BufferSize; got > most {
					t.Errorf("%d events are in memory, at most %d may be", got, most)
				}
			}
		})
	}
	producers.Wait()
	mu.Lock()
	down = false
	mu.Unlock()
	p.wait(all)
	stats := p.stop(t, 5*time.Second)
	d.holds(t, all)
	if d.resent != 0 || stats.Recorded != all || stats.Committed != all || stats.Spilled != stats.Replayed || stats.Spilled == 0 {
		t.Errorf("%d events came twice; counts are %+v", d.resent, stats)
	}
	for id, index := range p.indexes {
		if index == nil || *index != d.index[id] {
			t.Errorf("event %s: receipt says %v, DataStorage %d", id, index, d.index[id])
		}
	}
}

func TestDeadLettersOfAProcessThatDiedAreReplayedByTheNext(t *testing.T) {
	var first atomic.Pointer[process]
	var up atomic.Bool
	spilled := make(chan struct{})
	d := newDataStorage(t, func(int) fault {
		if up.Load() {
			return none
		}
		if p := first.Load(); p != nil && p.Stats().DeadLettered == 50 {
			select {
			case spilled <- struct{}{}:
			default:
			}
		}
		return unavailable
	})
	dir := t.TempDir()
	p := start(t, d.URL, dir)
	first.Store(p)
	for n := range 50 {
		if err := p.Record(event(n)); err != nil {
			t.Fatal(err)
		}
	}
	<-spilled
	// The store is never closed. The kernel closes the files of the dead.
	p.end()
	<-p.ended
	if err := p.queue.Close(); err != nil {
		t.Fatal(err)
	}
	up.Store(true)
	second := start(t, d.URL, dir)
	second.wait(50)
	stats := second.stop(t, time.Second)
	d.holds(t, 50)
	if stats.Recorded != 50 || stats.Replayed != 50 || stats.DeadLettered != 0 {
		t.Errorf("counts are %+v", stats)
	}
}

func TestEventsRecordedWhileTheStoreClosesAreSentOrKept(t *testing.T) {
	d := newDataStorage(t, func(int) fault { return none })
	dir := t.TempDir()
	p := start(t, d.URL, dir)
	var producers sync.WaitGroup
	begun := make(chan struct{}, 8)
	for producer := range 8 {
		producers.Go(func() {
			for n := range 200 {
				if err := p.Record(event(producer*200 + n)); err != nil {
					t.Error(err)
				}
				if n == 100 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	p.end()
	<-p.ended
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	producers.Wait()
	stats := p.stop(t, time.Second)
	if stats.Recorded != 1600 || stats.Buffered != 0 {
		t.Errorf("counts are %+v", stats)
	}
	next := start(t, d.URL, dir)
	if stats.DeadLettered > 0 {
		next.wait(stats.DeadLettered)
	}
	next.stop(t, time.Second)
	d.holds(t, 1600)
}
