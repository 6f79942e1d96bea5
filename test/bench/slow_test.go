package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
)

const slowClients = 200

// BenchmarkSlowClients reports the memory of a DataStorage with the GOMEMLIMIT of a pod,
// into which 5,000 events a second come while 200 clients take their answers at 1 KiB
// a second, most of them 1,000 events, which the kernel has room for, and one in ten
// 8 MiB, for which it has none: the most of the first and of the last quarter of the
// time, and of all of it, beside the limit as the program itself has it. With
// BENCHTIME=3600x it takes an hour.
func BenchmarkSlowClients(b *testing.B) {
	b.Setenv("GOMEMLIMIT", "410MiB")
	process, storage := harness.StartDataStorage(b, harness.FreeAddress(b), "sqlite:"+filepath.Join(b.TempDir(), "log.db"))
	client, err := auditclient.New(auditclient.Options{URL: storage.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	f := &filler{b: b, client: client}
	f.fill(10_000)
	fillLarge(b, client)
	stop := f.pace(writesPerSecond)
	defer stop()

	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	transport := &http.Transport{MaxConnsPerHost: slowClients, WriteBufferSize: 4 << 10, ReadBufferSize: 4 << 10, DialContext: dialSlow}
	defer transport.CloseIdleConnections()
	slow := &http.Client{Transport: transport}
	var attached atomic.Int64
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	for n := range slowClients {
		what := ""
		if n%10 == 0 {
			what = "&correlation_id=large"
		}
		work.Go(func() {
			for ctx.Err() == nil {
				crawl(ctx, slow, storage.URL+"/api/v1/audit/events?limit=1000"+what, &attached)
			}
		})
	}
	for attached.Load() < slowClients*9/10 {
		<-time.After(100 * time.Millisecond)
	}

	var memory []float64
	var clients int64
	before, began := f.next.Load(), time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for b.Loop() {
		<-ticker.C
		memory = append(memory, gauge(b, storage.URL, "process_resident_memory_bytes")/(1<<20))
		clients += attached.Load()
	}
	quarter := max(1, len(memory)/4)
	b.ReportMetric(slices.Max(memory[:quarter]), "first-MiB")
	b.ReportMetric(slices.Max(memory[len(memory)-quarter:]), "last-MiB")
	b.ReportMetric(slices.Max(memory), "peak-MiB")
	b.ReportMetric(gauge(b, storage.URL, "go_gc_gomemlimit_bytes")/(1<<20), "limit-MiB")
	b.ReportMetric(float64(f.next.Load()-before)/time.Since(began).Seconds(), "events/s")
	b.ReportMetric(float64(clients)/float64(len(memory)), "slow-clients")
	b.ReportMetric(0, "ns/op")
	cancel()
	work.Wait()
	if process.Ended() {
		b.Error("DataStorage has ended")
	}
}

// fillLarge posts events of which a page has 8 MiB.
func fillLarge(b *testing.B, client *auditclient.Client) {
	b.Helper()
	batch := make([]audit.Event, 10)
	for n := range 15 {
		for i := range batch {
			batch[i] = storetest.Record(0).Event
			batch[i].EventID, batch[i].CorrelationID = audit.EventID("large", strconv.Itoa(10*n+i)), "large"
			batch[i].EventData = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 64<<10))
		}
		if _, err := client.Post(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}

// dialSlow connects with so little room for what comes in that the sender notices
// how slowly it is read.
func dialSlow(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = tcp.SetReadBuffer(4 << 10)
	}
	return conn, err
}

// crawl takes an answer as slowly as it may, until the server has had enough, and
// is attached meanwhile.
func crawl(ctx context.Context, client *http.Client, url string, attached *atomic.Int64) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	answer, err := client.Do(request)
	if err == nil && answer.StatusCode == http.StatusOK {
		attached.Add(1)
		defer attached.Add(-1)
	}
	if err == nil {
		defer answer.Body.Close()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err != nil {
			return // It asks once a second.
		}
		if n, err := io.CopyN(io.Discard, answer.Body, 1<<10); n == 0 || err != nil {
			return
		}
	}
}

// gauge returns what a program's metrics say of one.
func gauge(b *testing.B, url, name string) float64 {
	b.Helper()
	answer, err := http.Get(url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				b.Fatal(err)
			}
			return value
		}
	}
	b.Fatalf("there is no %s among the metrics", name)
	return 0
}
