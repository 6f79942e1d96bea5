package audit

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func tiny(buffer int) Config {
	cfg := settings
	cfg.BufferSize = buffer
	return cfg
}

func TestTheFullBufferGoesToTheDLQInOneWrite(t *testing.T) {
	dlq := &memory{}
	f := newFixture(t, tiny(100), &server{}, dlq)
	f.record(events(0, 250)...)
	f.want(250, 0, 48, 202, 0)
	if diff := cmp.Diff([]int{101, 101}, dlq.puts); diff != "" {
		t.Errorf("sizes of the writes (-want +got):\n%s", diff)
	}
	for i, e := range dlq.waiting {
		if e.EventID != event(i).EventID {
			t.Fatalf("place %d in the DLQ has %s", i, e.ResourceID)
		}
	}
	f.finish()
	f.want(250, 48, 0, 202, 0)
}

func TestABrokenDLQCostsOnlyTheEventThatFindsNoRoom(t *testing.T) {
	dlq := &memory{}
	f := newFixture(t, tiny(10), &server{}, dlq)
	f.record(events(0, 10)...)
	full := errors.New("disk full")
	dlq.breakWith(full)
	for range 3 {
		if err := f.Record(event(10)); !errors.Is(err, full) {
			t.Errorf("error is %v", err)
		}
		f.record(events(0, 10)...) // held as before
		f.want(10, 0, 10, 0, 0)
	}
	if diff := cmp.Diff([]int{11, 1, 1}, dlq.puts); diff != "" {
		t.Errorf("sizes of the writes, of which one event suffices for those after the first (-want +got):\n%s", diff)
	}
	dlq.breakWith(nil)
	f.record(events(10, 12)...)
	f.want(12, 0, 10, 2, 0)
	f.finish()
	f.want(12, 10, 0, 2, 0)
}

// blocked has one caller make room, who is held up in the write until the
// channel has the write's result. answer gets what Record returned to him.
func blocked(t *testing.T, f *fixture) (result chan error, answer chan error) {
	t.Helper()
	entered := make(chan bool)
	result, answer = make(chan error), make(chan error, 1)
	f.dlq.onPut = func([]Event) error {
		f.dlq.onPut = nil
		close(entered)
		return <-result
	}
	f.record(events(0, 10)...)
	go func() { answer <- f.Record(event(10)) }()
	<-entered
	f.want(10, 0, 10, 0, 0)
	return result, answer
}

func TestCallersThatFindTheBufferFullWaitForOneWriteTogether(t *testing.T) {
	f := newFixture(t, tiny(10), &server{}, &memory{})
	before := f.spills
	result, answer := blocked(t, f)
	f.record(events(0, 10)...) // held, in the write
	f.mu.Lock()
	if f.keep(new(event(11))) {
		t.Error("the buffer took an event while as many as it may have were being written")
	}
	f.mu.Unlock()
	result <- nil
	if err := <-answer; err != nil {
		t.Error(err)
	}
	// These have waited for the write. 10 was in it, but not held.
	for _, e := range events(10, 18) {
		if err := f.recordFull(&e, before); err != nil {
			t.Error(err)
		}
	}
	f.want(19, 0, 8, 11, 0)
	if diff := cmp.Diff([]int{11}, f.dlq.puts); diff != "" {
		t.Errorf("sizes of the writes (-want +got):\n%s", diff)
	}
	f.finish()
	if s := f.Stats(); s.Merged != 1 {
		t.Errorf("counts are %+v, want 18 events and a copy of one", s)
	}
	f.want(18, 8, 0, 10, 0)
}

func TestCallersThatFindTheBufferFullShareTheErrorOfOneWrite(t *testing.T) {
	f := newFixture(t, tiny(10), &server{}, &memory{})
	before := f.spills
	result, answer := blocked(t, f)
	hung := errors.New("timed out")
	result <- hung
	if err := <-answer; !errors.Is(err, hung) {
		t.Errorf("error is %v", err)
	}
	if err := f.recordFull(new(event(11)), before); !errors.Is(err, hung) || len(f.dlq.puts) > 0 {
		t.Errorf("error is %v after %d more writes, want that of the write that was waited for", err, len(f.dlq.puts))
	}
	f.want(10, 0, 10, 0, 0)
	f.finish()
	f.want(10, 10, 0, 0, 0)
	if got := f.server.posts[0].body; strings.Index(got, "request-0") > strings.Index(got, "request-9") {
		t.Error("the events that came back to the buffer have lost their order")
	}
}

func TestCloseWaitsForTheEventsThatRecordHasInItsHands(t *testing.T) {
	f := newFixture(t, tiny(10), &server{answer: always(errors.New("refused"))}, &memory{})
	result, answer := blocked(t, f)
	f.dlq.breakWith(errors.New("disk full"))
	closed := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		closed <- f.Close(ctx)
	}()
	<-f.posting.Done() // Close has nothing left to do but to wait, or has returned
	result <- errors.New("timed out")
	if err := <-answer; err == nil {
		t.Error("Record took an event that nothing holds")
	}
	if err := <-closed; err == nil || !strings.Contains(err.Error(), "10 events are in memory only") {
		t.Errorf("error of Close is %v", err)
	}
	f.want(10, 0, 10, 0, 0)
}

func TestNoEventIsLostBetweenManyCallersAndADLQThatOftenFails(t *testing.T) {
	writes := 0
	dlq := &memory{onPut: func([]Event) error {
		if writes++; writes%5 == 0 { // the store makes one call at a time
			return errors.New("input/output error")
		}
		return nil
	}}
	srv := &server{}
	cfg := tiny(20)
	cfg.FlushInterval = time.Millisecond
	f := newFixture(t, cfg, srv, dlq)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.Start(ctx) }()
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			for n := range 500 {
				for f.Record(event(caller*500+n)) != nil {
					runtime.Gosched()
				}
			}
		})
	}
	callers.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	f.finish()
	for id, n := range srv.rows {
		if n != 1 {
			t.Errorf("event %s was taken %d times", id, n)
		}
	}
	if len(srv.rows)+len(dlq.waiting) != 4000 || f.Stats().Recorded != 4000 {
		t.Errorf("DataStorage holds %d events and the DLQ %d; want 4000, counts are %+v", len(srv.rows), len(dlq.waiting), f.Stats())
	}
}

func TestLargeEventsFillTheBufferByTheirBytes(t *testing.T) {
	dlq := &memory{}
	f := newFixture(t, Config{BufferSize: 1000, BatchSize: 100, FlushInterval: time.Minute, MaxRetries: 3}, &server{}, dlq)
	data := json.RawMessage(`{"text":"` + strings.Repeat("x", 200<<10) + `"}`)
	most, peak := maxBufferBytes/len(data), 0
	const all = 200
	for n := range all {
		e := event(n)
		e.EventData = data
		f.record(e)
		peak = max(peak, f.Stats().Buffered)
		if n == most/2 {
			f.mu.Lock()
			batch := f.take()
			f.mu.Unlock()
			f.giveBack(batch)
			if size := len(batch) * len(data); size > maxBatchBytes || len(batch) == 0 {
				t.Errorf("a batch has %d events and %d bytes, want at most %d", len(batch), size, maxBatchBytes)
			}
		}
	}
	if peak > most || peak < most-5 {
		t.Errorf("%d events of %d bytes waited in memory, want %d or little fewer", peak, len(data), most)
	}
	if s := f.Stats(); s.Buffered+s.DeadLettered != all || len(dlq.puts) != all/most {
		t.Errorf("after %d writes the store holds %d events, want %d and %d", len(dlq.puts), s.Buffered+s.DeadLettered, all/most, all)
	}
	f.finish()
}

// BenchmarkRecord measures Record beside a writer whose server takes no time.
// The buffer is emptied off the clock, or it would be the depth of a backlog
// that is measured.
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

// BenchmarkRecordRaw measures what Record cannot do without: to keep an event
// and to know its ID, under a lock.
func BenchmarkRecordRaw(b *testing.B) {
	var mu sync.Mutex
	var pending []Event
	held := map[uuid.UUID]struct{}{}
	e := event(1)
	for n := range b.N {
		for i := range 8 {
			e.EventID[i] = byte(n >> (8 * i))
		}
		mu.Lock()
		held[e.EventID] = struct{}{}
		pending = append(pending, e)
		if len(pending) == 1000 {
			pending = nil
			clear(held)
		}
		mu.Unlock()
	}
}
