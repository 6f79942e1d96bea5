package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
)

const (
	// perIncident is how many events have the same correlation ID.
	perIncident = 5
	// writesPerSecond come in while queries are measured.
	writesPerSecond = 5000
)

// BenchmarkQuery reports how long it takes to find the events of a correlation ID
// among BENCH_ROWS others (100,000), over HTTP and while 5,000 events a second come
// in, and how long a page of 100 takes at the beginning and in the middle of all.
// On PostgreSQL raw is the same search without anything around it.
func BenchmarkQuery(b *testing.B) {
	rows := 100_000
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil || rows < 10_000 {
			b.Fatalf("BENCH_ROWS is %q; it must be a number of events from 10000 on", text)
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		benchmarkQuery(b, "sqlite:"+filepath.Join(b.TempDir(), "log.db"), rows, nil)
	})
	b.Run("postgres", func(b *testing.B) {
		url := storetest.StartPostgres(b).NewDatabase(b)
		benchmarkQuery(b, url, rows, func() func(string) error {
			conn, err := pgx.Connect(b.Context(), url)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = conn.Close(context.Background()) })
			return func(incident string) error {
				_, err := conn.Exec(b.Context(), "SELECT log_index, event_id, event_type, leaf_hash FROM audit_events WHERE correlation_id = $1 ORDER BY event_timestamp DESC, log_index DESC LIMIT 51", incident)
				return err
			}
		})
	})
}

// filler makes events of which a few have the same correlation ID, and posts them.
type filler struct {
	b      *testing.B
	client *auditclient.Client
	next   atomic.Int64
}

func incident(n int) string { return fmt.Sprint("incident-", n/perIncident) }

func (f *filler) post(size int) {
	event := storetest.Record(0).Event
	first := int(f.next.Add(int64(size))) - size
	batch := make([]audit.Event, size)
	for i := range batch {
		n := first + i
		event.EventID, event.CorrelationID, event.ResourceID = audit.EventID("bench", strconv.Itoa(n)), incident(n), fmt.Sprint("request-", n)
		event.EventTimestamp = storetest.Epoch.Add(time.Duration(n) * time.Millisecond)
		batch[i] = event
	}
	// A database may not answer while it writes gigabytes to its disk. An event that
	// is sent again is stored once.
	var err error
	for range 10 {
		if _, err = f.client.Post(f.b.Context(), batch); err == nil || f.b.Context().Err() != nil {
			return
		}
	}
	f.b.Error(err)
}

// fill posts events until there are so many.
func (f *filler) fill(rows int) {
	var work sync.WaitGroup
	for range producers {
		work.Go(func() {
			for f.next.Load() < int64(rows) && !f.b.Failed() {
				f.post(1000)
			}
		})
	}
	work.Wait()
}

// pace posts so many events a second until the function that it returns is called.
func (f *filler) pace(perSecond int) (stop func()) {
	const size = 100
	ended := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		ticker := time.NewTicker(time.Second * size / time.Duration(perSecond))
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				f.post(size)
			}
		}
	})
	return func() { close(ended); work.Wait() }
}

func benchmarkQuery(b *testing.B, database string, rows int, newRaw func() func(string) error) {
	// In this process, queries would wait for what makes the events.
	_, storage := harness.StartDataStorage(b, harness.FreeAddress(b), database)
	client, err := auditclient.New(auditclient.Options{URL: storage.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	f := &filler{b: b, client: client}
	f.fill(rows)
	// Nobody's events come in by the million and wait for the disk.
	syscall.Sync()
	stop := f.pace(writesPerSecond)
	defer stop()
	get := func(query string) time.Duration {
		start := time.Now()
		answer, err := http.Get(storage.URL + "/api/v1/audit/events?" + query)
		if err != nil {
			b.Fatal(err)
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			b.Fatalf("%s: %s, %v", query, answer.Status, err)
		}
		return time.Since(start)
	}
	var raw func(string) error
	if newRaw != nil {
		raw = newRaw()
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var found, foundRaw, early, deep []time.Duration
	before, began := f.next.Load(), time.Now()
	for b.Loop() {
		name := incident(rng.IntN(rows))
		found = append(found, get("correlation_id="+name))
		if raw != nil {
			start := time.Now()
			if err := raw(name); err != nil {
				b.Fatal(err)
			}
			foundRaw = append(foundRaw, time.Since(start))
		}
		if len(found)%10 == 0 {
			early = append(early, get("limit=100"))
			middle := datastorage.Cursor{Micros: storetest.Epoch.Add(time.Duration(rows/2) * time.Millisecond).UnixMicro(), LogIndex: int64(rows / 2)}
			deep = append(deep, get("limit=100&after="+middle.String()))
		}
	}
	b.ReportMetric(float64(f.next.Load()-before)/time.Since(began).Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
	for name, times := range map[string][]time.Duration{"p99-ms": found, "raw-p99-ms": foundRaw} {
		if len(times) > 0 {
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, name)
		}
	}
	for name, times := range map[string][]time.Duration{"first-page-ms": early, "deep-page-ms": deep} {
		if len(times) > 0 {
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name)
		}
	}
}
