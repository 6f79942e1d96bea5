package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"golang.org/x/sys/unix"

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
// The database's files are in memory, as far as there is room; cold is the same
// search where each page comes from the disk. On PostgreSQL, whose own memory is
// never cold, raw is the search without anything around it.
func BenchmarkQuery(b *testing.B) {
	rows := 100_000
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil || rows < 10_000 {
			b.Fatalf("BENCH_ROWS is %q; it must be a number of events from 10000 on", text)
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		dir := b.TempDir()
		benchmarkQuery(b, "sqlite:"+filepath.Join(dir, "log.db"), dir, rows, nil)
	})
	b.Run("postgres", func(b *testing.B) {
		url := storetest.StartPostgres(b).NewDatabase(b)
		conn, err := pgx.Connect(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(context.Background())
		var dir string
		if err := conn.QueryRow(b.Context(), "SHOW data_directory").Scan(&dir); err != nil {
			b.Fatal(err)
		}
		benchmarkQuery(b, url, dir, rows, func(incident string) error {
			_, err := conn.Exec(b.Context(), "SELECT log_index, event_id, event_type, leaf_hash FROM audit_events WHERE correlation_id = $1 ORDER BY event_timestamp DESC, log_index DESC LIMIT 51", incident)
			return err
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

func benchmarkQuery(b *testing.B, database, dir string, rows int, raw func(incident string) error) {
	// In this process, queries would wait for what makes the events.
	_, storage := harness.StartDataStorage(b, harness.FreeAddress(b), database)
	client, err := auditclient.New(auditclient.Options{URL: storage.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	f := &filler{b: b, client: client}
	f.fill(rows)
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
	rng := rand.New(rand.NewPCG(1, 2))
	var cold, found, foundRaw, early, deep []time.Duration

	inMemory(b, dir, false)
	stop := f.pace(writesPerSecond)
	for range 3000 {
		cold = append(cold, get("correlation_id="+incident(rng.IntN(rows))))
	}
	stop()

	inMemory(b, dir, true)
	stop = f.pace(writesPerSecond)
	defer stop()
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
	report := func(name string, times []time.Duration, percent int) {
		if len(times) > 0 {
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)*percent/100].Microseconds())/1000, name)
		}
	}
	report("p99-ms", found, 99)
	report("raw-p99-ms", foundRaw, 99)
	report("cold-p99-ms", cold, 99)
	report("first-page-ms", early, 50)
	report("deep-page-ms", deep, 50)
}

// inMemory has the system keep the files of a directory in its memory, or forget
// them.
func inMemory(b *testing.B, dir string, wanted bool) {
	b.Helper()
	// What is not written yet cannot be forgotten. And nobody's events come in by
	// the million and wait for the disk.
	syscall.Sync()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !entry.Type().IsRegular() {
			return nil // PostgreSQL removes files of its log
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if wanted {
			_, err = io.Copy(io.Discard, file)
			return err
		}
		return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil {
		b.Fatal(err)
	}
}
