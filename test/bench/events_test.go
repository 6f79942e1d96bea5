package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/audit/dlq"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
)

// BenchmarkEvents reports how many events a second get from Record to a committed
// row, through all that is between. What the database could do at best is in the
// lines named raw of the stores' own BenchmarkAppend.
func BenchmarkEvents(b *testing.B) {
	sizes := func(b *testing.B, newDatabase func(*testing.B) string) {
		for _, size := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
				_, storage := harness.StartDataStorage(b, harness.FreeAddress(b), newDatabase(b))
				benchmarkEvents(b, storage.URL, size)
			})
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		sizes(b, func(b *testing.B) string { return "sqlite:" + filepath.Join(b.TempDir(), "log.db") })
	})
	b.Run("postgres", func(b *testing.B) {
		server := storetest.StartPostgres(b)
		sizes(b, func(b *testing.B) string { return server.NewDatabase(b) })
	})
}

func benchmarkEvents(b *testing.B, url string, size int) {
	client, err := auditclient.New(auditclient.Options{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	letters, err := dlq.Open(b.TempDir(), dlqBytes, logr.Discard())
	if err != nil {
		b.Fatal(err)
	}
	defer letters.Close()

	poster := &pacer{Poster: client, posted: make(chan int), free: make(chan struct{})}
	var committed atomic.Int64
	more := make(chan struct{}, 1)
	store, err := audit.NewStore(
		audit.Config{BufferSize: size, BatchSize: size, FlushInterval: 100 * time.Millisecond, MaxRetries: 3},
		poster, letters, audit.Options{Log: logr.Discard(), OnReceipts: func(receipts []audit.Receipt) {
			committed.Add(int64(len(receipts)))
			select {
			case more <- struct{}{}:
			default:
			}
		}})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(b.Context())
	go func() { ended <- store.Start(ctx) }()

	event, recorded, waiting := storetest.Record(0).Event, 0, 0
	start := time.Now()
	for b.Loop() {
		recorded++
		name := fmt.Sprint("request-", recorded)
		event.EventID, event.CorrelationID, event.ResourceID = audit.EventID("bench", name), name, name
		event.EventTimestamp = event.EventTimestamp.Add(time.Microsecond)
		if err := store.Record(event); err != nil {
			b.Fatal(err)
		}
		for waiting++; waiting >= size; {
			waiting -= <-poster.posted
		}
	}
	// The last batch is not full and would go only with the next flush.
	for committed.Load() < int64(recorded-waiting) {
		<-more
	}
	done := float64(recorded - waiting)
	b.ReportMetric(done/time.Since(start).Seconds(), "events/s")
	b.ReportMetric(done/max(1, float64(poster.batches.Load())), "events/batch")
	b.ReportMetric(0, "ns/op")

	close(poster.free)
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
	if err := store.Close(context.Background()); err != nil {
		b.Error(err)
	}
	if stats := store.Stats(); stats.Committed != recorded || stats.Spilled > 0 || stats.Retried > 0 {
		b.Errorf("of %d events not all were committed at the first try: %+v", recorded, stats)
	}
}

// pacer tells whoever records events how many have been taken from the buffer,
// so that all batches that the store can have in flight have the same size: left
// alone, a batch takes all that waits.
type pacer struct {
	audit.Poster
	posted  chan int
	free    chan struct{} // closed when nobody listens any more
	batches atomic.Int64
}

func (p *pacer) Post(ctx context.Context, events []audit.Event) (audit.Ack, error) {
	select {
	case p.posted <- len(events):
	case <-p.free:
	}
	ack, err := p.Poster.Post(ctx, events)
	p.batches.Add(1)
	return ack, err
}
