package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
)

const producers = 10

// BenchmarkIngest reports how many events a second ten producers get into the
// log over HTTP, in batches of one size, each sending its next when the last is
// answered. On PostgreSQL it reports as raw what one connection copies of the same
// rows into a table with the same indices, a second at a time in turn.
func BenchmarkIngest(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("sqlite/batch=%d", size), func(b *testing.B) {
			benchmarkIngest(b, "sqlite:"+filepath.Join(b.TempDir(), "log.db"), size, nil)
		})
		b.Run(fmt.Sprintf("postgres/batch=%d", size), func(b *testing.B) {
			url := storetest.StartPostgres(b).NewDatabase(b)
			benchmarkIngest(b, url, size, func() func([]datastorage.Record, int64) error {
				conn, err := pgx.Connect(b.Context(), url)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = conn.Close(context.Background()) })
				write := storetest.RawPostgres(b, conn)
				return func(records []datastorage.Record, first int64) error { return write(b.Context(), records, first) }
			})
		})
	}
}

func benchmarkIngest(b *testing.B, database string, size int, newRaw func() func([]datastorage.Record, int64) error) {
	_, storage := harness.StartDataStorage(b, harness.FreeAddress(b), database)
	client, err := auditclient.New(auditclient.Options{URL: storage.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	var raw func([]datastorage.Record, int64) error
	if newRaw != nil {
		raw = newRaw()
	}
	event := maker()
	var next, sent, rawSent atomic.Int64
	var spent, rawSpent time.Duration
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		start := time.Now()
		var work sync.WaitGroup
		for range producers {
			work.Go(func() {
				batch := make([]audit.Event, size)
				for ctx.Err() == nil {
					first := int(next.Add(int64(size))) - size
					for i := range batch {
						batch[i] = event(first + i)
					}
					if _, err := client.Post(b.Context(), batch); err != nil {
						b.Error(err)
						return
					}
					sent.Add(int64(size))
				}
			})
		}
		work.Wait()
		spent += time.Since(start)
		cancel()
		for start := time.Now(); raw != nil && time.Since(start) < time.Second; {
			records := make([]datastorage.Record, size)
			for i := range records {
				records[i] = storetest.Record(int(rawSent.Load()) + i)
			}
			begin := time.Now()
			if err := raw(records, rawSent.Load()); err != nil {
				b.Fatal(err)
			}
			rawSpent += time.Since(begin)
			rawSent.Add(int64(size))
		}
	}
	b.ReportMetric(float64(sent.Load())/spent.Seconds(), "events/s")
	if raw != nil {
		b.ReportMetric(float64(rawSent.Load())/rawSpent.Seconds(), "raw-events/s")
	}
	b.ReportMetric(0, "ns/op")
}
