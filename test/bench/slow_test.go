package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/test/harness"
)

const slowClients = 200

// BenchmarkSlowClients reports the memory of a DataStorage with GOMEMLIMIT=256MiB,
// into which 5,000 events a second come while 200 clients take their answers of
// 1,000 events at 1 KiB a second: the most of the first and of the last quarter of
// the time. With BENCHTIME=3600x it takes an hour.
func BenchmarkSlowClients(b *testing.B) {
	b.Setenv("GOMEMLIMIT", "256MiB")
	process, storage := harness.StartDataStorage(b, harness.FreeAddress(b), "sqlite:"+filepath.Join(b.TempDir(), "log.db"))
	client, err := auditclient.New(auditclient.Options{URL: storage.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseIdleConnections()
	f := &filler{b: b, client: client}
	f.fill(10_000)
	stop := f.pace(writesPerSecond)
	defer stop()

	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	transport := &http.Transport{MaxConnsPerHost: slowClients, WriteBufferSize: 4 << 10, ReadBufferSize: 4 << 10}
	defer transport.CloseIdleConnections()
	slow := &http.Client{Transport: transport}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	for range slowClients {
		work.Go(func() {
			for ctx.Err() == nil {
				crawl(ctx, slow, storage.URL+"/api/v1/audit/events?limit=1000")
			}
		})
	}

	var memory []float64
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for b.Loop() {
		<-ticker.C
		memory = append(memory, resident(b, storage.URL))
	}
	quarter := max(1, len(memory)/4)
	highest := func(values []float64) (most float64) {
		for _, v := range values {
			most = max(most, v)
		}
		return most
	}
	b.ReportMetric(highest(memory[:quarter]), "first-MiB")
	b.ReportMetric(highest(memory[len(memory)-quarter:]), "last-MiB")
	b.ReportMetric(float64(f.next.Load())/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
	cancel()
	work.Wait()
	if process.Ended() {
		b.Error("DataStorage has ended")
	}
}

// crawl takes an answer as slowly as it may, until the server has had enough.
func crawl(ctx context.Context, client *http.Client, url string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if n, err := io.CopyN(io.Discard, answer.Body, 1<<10); n == 0 || err != nil {
			return
		}
	}
}

// resident returns the memory of a program, by its metrics, in MiB.
func resident(b *testing.B, url string) float64 {
	b.Helper()
	answer, err := http.Get(url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		var bytes float64
		if text, ok := strings.CutPrefix(lines.Text(), "process_resident_memory_bytes "); ok {
			if _, err := fmt.Sscan(text, &bytes); err != nil {
				b.Fatal(err)
			}
			return bytes / (1 << 20)
		}
	}
	b.Fatal("there is no process_resident_memory_bytes among the metrics")
	return 0
}
