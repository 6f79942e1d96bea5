package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/audit/dlq"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// dlqBytes is more than any of the benchmarks puts into a dead-letter queue.
const dlqBytes = 8 << 30

// defaults are the manager's.
var defaults = audit.Config{BufferSize: 1000, BatchSize: 100, FlushInterval: 100 * time.Millisecond, MaxRetries: 3}

// maker makes events that differ in what those of different requests differ in,
// each with memory of its own as the controller's have.
func maker() func(n int) audit.Event {
	sample := storetest.Record(0).Event
	return func(n int) audit.Event {
		e := sample
		binary.BigEndian.PutUint64(e.EventID[8:], uint64(n)+1)
		e.ResourceID = fmt.Sprint("request-", n)
		e.CorrelationID = strings.Clone(e.ResourceID)
		e.EventTimestamp = e.EventTimestamp.Add(time.Duration(n) * time.Microsecond)
		e.EventData = slices.Clone(sample.EventData)
		return e
	}
}

func makeAll(count int) []audit.Event {
	event := maker()
	list := make([]audit.Event, count)
	for n := range list {
		list[n] = event(n)
	}
	return list
}

func encode(b *testing.B, events []audit.Event) []byte {
	b.Helper()
	body, err := json.Marshal(events)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

func newQueue(b *testing.B, dir string) *dlq.File {
	b.Helper()
	queue, err := dlq.Open(dir, dlqBytes, logr.Discard())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := queue.Close(); err != nil {
			b.Error(err)
		}
	})
	return queue
}

// null is a DataStorage that takes everything and does nothing, or, where it has
// a set, counts how often it was sent each event.
type null struct {
	url  string
	mu   sync.Mutex
	seen map[uuid.UUID]uint8
}

func (s *null) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.seen == nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.WriteHeader(http.StatusCreated)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	const name = `{"event_id":"`
	for {
		i := bytes.Index(body, []byte(name))
		if i < 0 {
			break
		}
		body = body[i+len(name):]
		s.seen[uuid.MustParse(string(body[:36]))]++
	}
	w.WriteHeader(http.StatusCreated)
}

func (s *null) serve(b *testing.B, address string) {
	b.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	s.url = "http://" + listener.Addr().String()
	server := &http.Server{Handler: s}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	b.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			b.Error(err)
		}
	})
}

// running is a store at work. OnReceipts gives back what take has taken.
type running struct {
	*audit.Store
	mu        sync.Mutex
	more      *sync.Cond
	free      int
	committed int
}

func startStore(b *testing.B, cfg audit.Config, url string, queue audit.DLQ) *running {
	b.Helper()
	client, err := auditclient.New(auditclient.Options{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	r := &running{free: cfg.BufferSize}
	r.more = sync.NewCond(&r.mu)
	r.Store, err = audit.NewStore(cfg, client, queue, audit.Options{Log: logr.Discard(), OnReceipts: func(receipts []audit.Receipt) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.free += len(receipts)
		r.committed += len(receipts)
		r.more.Broadcast()
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := r.Close(context.Background()); err != nil {
			b.Error(err)
		}
		client.CloseIdleConnections()
	})
	return r
}

// take waits until n more events have a place in the buffer.
func (r *running) take(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.free < n {
		r.more.Wait()
	}
	r.free -= n
}

func (r *running) waitCommitted(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.committed < n {
		r.more.Wait()
	}
}

// BenchmarkNull reports the events per second from Record through the real
// client to a server that does nothing, in the same process and so on the same
// processors, the time of these that each event took, and the events per second
// of posts of batches that were encoded beforehand. The callers wait where the
// buffer would be full, so that nothing spills.
func BenchmarkNull(b *testing.B) {
	for _, producers := range []int{1, 8} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			server := &null{}
			server.serve(b, "127.0.0.1:0")
			cfg := defaults
			cfg.BufferSize = 10_000
			store := startStore(b, cfg, server.url, newQueue(b, b.TempDir()))
			const portion = 1000
			portions := makeAll(portion)
			var next atomic.Int64
			start, used := time.Now(), processorTime(b)
			for b.Loop() {
				var callers sync.WaitGroup
				for range producers {
					callers.Go(func() {
						for range 80 / producers {
							store.take(portion)
							first := uint64(next.Add(portion))
							for i, e := range portions {
								binary.BigEndian.PutUint64(e.EventID[8:], first+uint64(i))
								if err := store.Record(e); err != nil {
									b.Error(err)
								}
							}
						}
					})
				}
				callers.Wait()
			}
			all := int(next.Load())
			store.waitCommitted(all)
			b.ReportMetric(float64(all)/time.Since(start).Seconds(), "events/s")
			b.ReportMetric(float64((processorTime(b)-used).Nanoseconds())/1e3/float64(all), "cpu-us/event")
			b.ReportMetric(float64(all)/postRaw(b, server.url, encode(b, portions), all/portion).Seconds(), "raw-events/s")
			b.ReportMetric(0, "ns/op")
			if stats := store.Stats(); stats.Spilled > 0 || stats.Committed != all {
				b.Errorf("of %d events not all were committed from memory: %+v", all, stats)
			}
		})
	}
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// postRaw posts one body some times, four at a time as the store does, and
// returns how long it took.
func postRaw(b *testing.B, url string, body []byte, times int) time.Duration {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	work := make(chan bool)
	var posters sync.WaitGroup
	start := time.Now()
	for range 4 {
		posters.Go(func() {
			for range work {
				resp, err := client.Post(url, "application/json", bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					continue
				}
				resp.Body.Close()
			}
		})
	}
	for range times {
		work <- true
	}
	close(work)
	posters.Wait()
	return time.Since(start)
}

// BenchmarkBuffered reports the memory that an event takes while it waits in the
// buffer, all that the store needs for it included, and its JSON's length.
func BenchmarkBuffered(b *testing.B) {
	const count = 10_000
	cfg := defaults
	cfg.BufferSize = count
	var grown float64
	for b.Loop() {
		event := maker()
		store, err := audit.NewStore(cfg, nil, newQueue(b, b.TempDir()), audit.Options{Log: logr.Discard()})
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		for n := range count {
			if err := store.Record(event(n)); err != nil {
				b.Fatal(err)
			}
		}
		grown += float64(heap()) - float64(before)
		if stats := store.Stats(); stats.Buffered != count {
			b.Fatalf("not all events are in memory: %+v", stats)
		}
	}
	b.ReportMetric(grown/float64(b.N)/count, "B/event")
	b.ReportMetric(float64(len(encode(b, makeAll(1000))))/1000, "json-B/event")
	b.ReportMetric(0, "ns/op")
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
