package datastorage_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

// agedLog is a log of so many events, all of which have expired by now and still
// have their bodies.
func agedLog(t *testing.T, databaseURL, key string, events int) {
	t.Helper()
	log := openWithKey(t, databaseURL, key)
	log.SetClock(func() time.Time { return time.Now().Add(-31 * storetest.Day) })
	for first := 0; first < events; first += 1000 {
		records := make([]datastorage.Record, min(1000, events-first))
		for i := range records {
			records[i] = storetest.Keep(storetest.Record(first+i, func(e *audit.Event) { e.CorrelationID = "incident" }), 30)
		}
		if _, err := log.Append(t.Context(), records); err != nil {
			t.Fatal(err)
		}
	}
	log.Close()
}

func openWithKey(t *testing.T, databaseURL, key string) *datastorage.Log {
	t.Helper()
	signer, err := ledger.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	log, err := datastorage.OpenLog(t.Context(), openURL(t, databaseURL), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// wantExpired fails the test unless each of so many events has expired exactly
// once, of which the log has so much to say that it verifies.
func wantExpired(t *testing.T, databaseURL string, events int) {
	t.Helper()
	covered := make([]int, events)
	for e, err := range datastorage.Expiries(t.Context(), openURL(t, databaseURL)) {
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, r := range e.LogIndices {
			for i := r[0]; i <= r[1]; i++ {
				covered[i]++
				count++
			}
		}
		if count != e.Count {
			t.Errorf("the expiry at %d says %d events and has %d", e.LogIndex, e.Count, count)
		}
	}
	for i, n := range covered {
		if n != 1 {
			t.Errorf("event %d has expired %d times", i, n)
		}
	}
	out, err := verifiedDatabase(t, databaseURL)
	if err != nil || !strings.Contains(out, fmt.Sprintf("Expired, as the log itself says: %d of the events.", events)) {
		t.Errorf("the log does not verify: %v\n%s", err, out)
	}
}

const expireDatabase, expireKey = "TEST_EXPIRE_DATABASE", "TEST_EXPIRE_KEY"

// TestExpireUntilKilled is no test of its own: it lets events expire in a process
// that TestExpiryThatIsKilledLeavesEachEventWholeOrExpired kills.
func TestExpireUntilKilled(t *testing.T) {
	databaseURL := os.Getenv(expireDatabase)
	if databaseURL == "" {
		t.Skip("it runs in a process of its own")
	}
	log := openWithKey(t, databaseURL, os.Getenv(expireKey))
	for {
		n, err := log.Expire(t.Context(), time.Now(), 0)
		fmt.Fprintln(os.Stdout, "expired", n, err)
		if n == 0 || err != nil {
			return
		}
	}
}

func TestExpiryThatIsKilledLeavesEachEventWholeOrExpired(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		const events = 12_000
		key, err := ledger.NewKey("example.com/log")
		if err != nil {
			t.Fatal(err)
		}
		agedLog(t, databaseURL, key, events)
		kills := 0
		for done := false; !done; {
			done = expireAndKill(t, databaseURL, key)
			if !done {
				kills++
			}
			if kills > events {
				t.Fatal("nothing expires between one kill and the next")
			}
		}
		if kills < 5 {
			t.Errorf("the process was killed %d times only", kills)
		}
		wantExpired(t, databaseURL, events)
	})
}

// expireAndKill starts a process and kills it while it lets the second thousand
// events expire, or waits for its end where there is nothing left for it to do.
func expireAndKill(t *testing.T, databaseURL, key string) (done bool) {
	t.Helper()
	process := exec.Command(os.Args[0], "-test.run=^TestExpireUntilKilled$")
	process.Env = append(os.Environ(), expireDatabase+"="+databaseURL, expireKey+"="+key)
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	lines := bufio.NewScanner(output)
	for !done && lines.Scan() {
		switch said := lines.Text(); {
		case said == "expired 0 <nil>":
			done = true
		case strings.HasPrefix(said, "expired ") && strings.HasSuffix(said, "<nil>"):
			killed = true
			_ = process.Process.Kill() // It may have ended meanwhile.
		case strings.HasPrefix(said, "expired "):
			t.Fatal(said)
		}
	}
	if err := process.Wait(); err != nil && !killed {
		t.Fatal(err)
	}
	return done
}

func TestReplicasThatExpireAtOnceExpireEachEventOnce(t *testing.T) {
	databaseURL := storetest.SharedPostgres(t).NewDatabase(t)
	const events = 6000
	key, err := ledger.NewKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	agedLog(t, databaseURL, key, events)
	var replicas sync.WaitGroup
	var expired atomic.Int64
	for range 3 {
		log := openWithKey(t, databaseURL, key)
		replicas.Go(func() {
			for {
				n, err := log.Expire(t.Context(), time.Now(), 0)
				if err != nil {
					t.Error(err)
				}
				if n == 0 {
					return
				}
				expired.Add(int64(n))
			}
		})
	}
	replicas.Wait()
	if got := expired.Load(); got != events {
		t.Errorf("the replicas have let %d events expire, want %d", got, events)
	}
	wantExpired(t, databaseURL, events)
}
