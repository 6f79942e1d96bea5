package bench

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/audit/dlq"
)

const (
	drained = 100_000
	million = 1_000_000
)

// disk is a file that is written as fast as one can that must not lose a write.
type disk struct {
	*os.File
	spent time.Duration
}

func newDisk(b *testing.B) *disk {
	b.Helper()
	file, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := file.Close(); err != nil {
			b.Error(err)
		}
	})
	return &disk{File: file}
}

func (d *disk) append(b *testing.B, text []byte) {
	b.Helper()
	start := time.Now()
	if _, err := d.Write(text); err != nil {
		b.Fatal(err)
	}
	if err := syscall.Fdatasync(int(d.Fd())); err != nil {
		b.Fatal(err)
	}
	d.spent += time.Since(start)
}

// BenchmarkPut reports the events per second that the dead-letter queue has made
// durable, and those that a write and an fdatasync of the same bytes would have,
// call by call in turn.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			queue, raw, event := newQueue(b, b.TempDir()), newDisk(b), maker()
			var spent time.Duration
			n := 0
			for b.Loop() {
				batch := make([]audit.Event, size)
				for i := range batch {
					batch[i] = event(n)
					n++
				}
				text := encode(b, batch)
				start := time.Now()
				if added, err := queue.Put(b.Context(), batch); err != nil || added != size {
					b.Fatalf("%d of %d events added: %v", added, size, err)
				}
				spent += time.Since(start)
				raw.append(b, text)
			}
			b.ReportMetric(float64(n)/spent.Seconds(), "events/s")
			b.ReportMetric(float64(n)/raw.spent.Seconds(), "raw-events/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkDrain reports how long it takes to send 100,000 dead letters to a
// server that does nothing, and how long the queue alone takes to hand them out
// and to remove them.
func BenchmarkDrain(b *testing.B) {
	fill := func() *dlq.File {
		queue := newQueue(b, b.TempDir())
		for batch := range slices.Chunk(makeAll(drained), 5000) {
			if _, err := queue.Put(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
		return queue
	}
	var spent, alone time.Duration
	for b.Loop() {
		server := &null{}
		server.serve(b, "127.0.0.1:0")
		queue := fill()
		start := time.Now()
		store := startStore(b, defaults, server.url, queue)
		store.waitCommitted(drained)
		spent += time.Since(start)
		if stats := store.Stats(); stats.Replayed != drained || stats.DeadLettered != 0 {
			b.Errorf("not all dead letters were replayed: %+v", stats)
		}

		queue = fill()
		start = time.Now()
		for {
			batch, _, err := queue.Next(b.Context(), 1000)
			if err != nil {
				b.Fatal(err)
			}
			if len(batch) == 0 {
				break
			}
			ids := make([]uuid.UUID, len(batch))
			for i := range batch {
				ids[i] = batch[i].EventID
			}
			if _, err := queue.Settle(b.Context(), ids, nil); err != nil {
				b.Fatal(err)
			}
		}
		alone += time.Since(start)
	}
	b.ReportMetric(spent.Seconds()/float64(b.N), "s")
	b.ReportMetric(alone.Seconds()/float64(b.N), "raw-s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMillion records a million events from eight callers while nothing
// listens at DataStorage's address, and then lets it listen. It reports the
// events per second that were made durable, those that a write and an fdatasync
// of the same bytes would have, 1000 events at a time, the most that the heap
// grew meanwhile, and the events per second that were sent afterwards. Each event
// must arrive exactly once.
func BenchmarkMillion(b *testing.B) {
	for b.Loop() {
		benchmarkMillion(b)
	}
	b.ReportMetric(0, "ns/op")
}

func benchmarkMillion(b *testing.B) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := reserved.Addr().String()
	if err := reserved.Close(); err != nil {
		b.Fatal(err)
	}
	queue := newQueue(b, b.TempDir())
	store := startStore(b, defaults, "http://"+address, queue)
	before := heap()
	stop := watchHeap()
	start := time.Now()
	var callers sync.WaitGroup
	const each = million / 8
	for caller := range 8 {
		callers.Go(func() {
			event := maker()
			for n := range each {
				if err := store.Record(event(caller*each + n)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	callers.Wait()
	recorded := time.Since(start)
	b.ReportMetric(million/recorded.Seconds(), "events/s")
	b.ReportMetric((float64(stop())-float64(before))/1e6, "peak-MB")
	fmt.Printf("  a million events recorded in %s: %+v\n", recorded.Round(time.Millisecond), store.Stats())

	raw, text := newDisk(b), encode(b, makeAll(1000))
	for range million / 1000 {
		raw.append(b, text)
	}
	b.ReportMetric(million/raw.spent.Seconds(), "raw-events/s")

	server := &null{seen: make(map[uuid.UUID]uint8, million)}
	server.serve(b, address)
	start = time.Now()
	store.waitCommitted(million)
	b.ReportMetric(million/time.Since(start).Seconds(), "drained-events/s")
	stats := store.Stats()
	if stats.Committed != million || stats.Recorded != million || stats.DeadLettered+stats.Buffered != 0 {
		b.Errorf("not all was recorded once: %+v", stats)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for id, n := range server.seen {
		if n != 1 {
			b.Fatalf("event %s arrived %d times", id, n)
		}
	}
	if len(server.seen) != million {
		b.Errorf("%d events arrived", len(server.seen))
	}
}

// watchHeap measures the heap again and again until stop is called, which
// returns the most that it was.
func watchHeap() (stop func() uint64) {
	end, peak := make(chan bool), make(chan uint64)
	go func() {
		var most uint64
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			most = max(most, stats.HeapAlloc)
			select {
			case <-end:
				peak <- most
				return
			case <-ticker.C:
			}
		}
	}()
	return func() uint64 { close(end); return <-peak }
}
