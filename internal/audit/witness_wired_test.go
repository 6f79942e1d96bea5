package audit_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/audit/dlq"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

// The witness before a real DataStorage, whose database is exchanged behind its
// back.

// logServer serves one database after another, under one address.
type logServer struct {
	*httptest.Server
	t        *testing.T
	database string // its URL
	key      *ledger.Key

	mu   sync.Mutex
	api  http.Handler
	stop func()
}

func newLogServer(t *testing.T, database string, key *ledger.Key) *logServer {
	t.Helper()
	s := &logServer{t: t, database: database, key: key}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); s.close() })
	s.open()
	return s
}

func newLogKey(t *testing.T) *ledger.Key {
	t.Helper()
	text, err := ledger.NewKey("audit.example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ledger.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *logServer) open() {
	s.t.Helper()
	open := sqlite.Open
	if strings.HasPrefix(s.database, "postgres:") {
		open = postgres.Open
	}
	store, closeStore, err := open(context.Background(), s.database, false)
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := datastorage.OpenLog(context.Background(), store, s.key)
	if err != nil {
		s.t.Fatal(errors.Join(err, closeStore()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api = datastorage.NewAPI(log, nil, logr.Discard())
	s.stop = func() {
		log.Close()
		if err := closeStore(); err != nil {
			s.t.Error(err)
		}
	}
}

// close waits for the requests under way.
func (s *logServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api = nil
	s.stop()
	s.stop = func() {}
}

func (s *logServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.api.ServeHTTP(w, r)
}

// become has another server answer under s's address, while s keeps its own log.
func (s *logServer) become(other *logServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api = other.api
}

// exchange replaces the database by what change makes of it while nobody uses it.
func (s *logServer) exchange(change func(database string) string) {
	s.t.Helper()
	s.close()
	s.database = change(s.database)
	s.open()
}

// databases makes databases of one kind.
type databases struct {
	empty  func(tb testing.TB) string
	copied func(database string) string // of one that nobody uses
}

// onBothDatabases runs a test on SQLite and on PostgreSQL.
func onBothDatabases(t *testing.T, test func(t *testing.T, d databases)) {
	files := databases{empty: func(tb testing.TB) string { return "sqlite:" + filepath.Join(tb.TempDir(), "log.db") }}
	files.copied = func(database string) string {
		from, to := strings.TrimPrefix(database, "sqlite:"), files.empty(t)
		if _, err := os.Stat(from + "-wal"); err == nil {
			t.Fatalf("the closed database %s has a write-ahead log", from)
		}
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(strings.TrimPrefix(to, "sqlite:"), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, files) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server := storetest.StartPostgres(t)
		name := func(database string) string {
			u, err := url.Parse(database)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimPrefix(u.Path, "/")
		}
		test(t, databases{server.NewDatabase, func(database string) string {
			copied := server.NewDatabase(t)
			server.Exec(t, "postgres", "DROP DATABASE "+name(copied))
			server.Exec(t, "postgres", "CREATE DATABASE "+name(copied)+" TEMPLATE "+name(database))
			return copied
		}})
	})
}

// kept is a Keeper in memory.
type kept struct {
	mu   sync.Mutex
	data map[string]string
}

func (k *kept) Load(context.Context) (map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.data), nil
}

func (k *kept) Save(_ context.Context, data map[string]string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.data = maps.Clone(data)
	return nil
}

func (k *kept) evidence() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.data {
		if strings.HasPrefix(name, "contradiction-") {
			n++
		}
	}
	return n
}

// witnessed is one life of the manager, with a witness.
type witnessed struct {
	*audit.Store
	t        *testing.T
	registry *prometheus.Registry
	end      func()

	mu       sync.Mutex
	receipts map[string]audit.Receipt
	changed  *sync.Cond
	alarms   chan string
}

func startWitnessed(t *testing.T, url, key, dir string, keeper audit.Keeper) *witnessed {
	t.Helper()
	c, err := client.New(client.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	queue, err := dlq.Open(dir, 256<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	p := &witnessed{t: t, registry: prometheus.NewRegistry(), receipts: map[string]audit.Receipt{}, alarms: make(chan string, 100)}
	p.changed = sync.NewCond(&p.mu)
	witness, err := audit.NewWitness(key, c, keeper, audit.WitnessOptions{
		Metrics: p.registry, Alarm: func(_ context.Context, reason string) { p.alarms <- reason },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Store, err = audit.NewStore(settings, c, queue, audit.Options{Log: logr.Discard(), Witness: witness, OnReceipts: func(list []audit.Receipt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range list {
			p.receipts[r.EventID.String()] = r
		}
		p.changed.Broadcast()
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, start := range []func(context.Context) error{p.Start, witness.Start} {
		running.Go(func() {
			if err := start(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	p.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(p.Close(closing), queue.Close()); err != nil {
			t.Error(err)
		}
		c.CloseIdleConnections()
	})
	t.Cleanup(p.end)
	witness.Await(t.Context())
	return p
}

// record records events and returns their receipts.
func (p *witnessed) record(from, to int) []audit.Receipt {
	p.t.Helper()
	for n := from; n < to; n++ {
		if err := p.Record(event(n)); err != nil {
			p.t.Fatal(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []audit.Receipt
	for n := from; n < to; n++ {
		id := event(n).EventID.String()
		for p.receipts[id].EventID.String() != id {
			p.changed.Wait()
		}
		all = append(all, p.receipts[id])
	}
	return all
}

// proven waits until the log is proven to have so many events.
func (p *witnessed) proven(size float64) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); p.metric("notification_audit_log_size") != size; {
		if time.Now().After(end) {
			p.t.Fatalf("the proven log has %v events, want %v", p.metric("notification_audit_log_size"), size)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// alarm waits for the one contradiction that there is to be, and returns it.
func (p *witnessed) alarm() string {
	p.t.Helper()
	select {
	case reason := <-p.alarms:
		return reason
	case <-time.After(20 * time.Second):
		p.t.Fatal("nothing contradicts")
		return ""
	}
}

func (p *witnessed) metric(name string) float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	p.t.Fatalf("there is no metric %s", name)
	return 0
}

// check checks how many contradictions there were, and that each event has a
// receipt that the log's key stands for, or none of them has.
func (p *witnessed) check(contradictions float64, receipts []audit.Receipt, verified bool) {
	p.t.Helper()
	if got := p.metric("notification_audit_log_contradictions_total"); got != contradictions {
		p.t.Errorf("%v contradictions, want %v", got, contradictions)
	}
	for _, r := range receipts {
		if ok := r.LogSize > 0 && r.LogRoot != "" && *r.LogIndex < r.LogSize; ok != verified || !verified && r.LogSize+int64(len(r.LogRoot)) > 0 {
			p.t.Errorf("receipt %+v, want one that is verified: %t", r, verified)
		}
	}
	if p.Stats().Difference() != 0 {
		p.t.Errorf("%+v", p.Stats())
	}
}

func TestADatabaseFromAnOldBackupIsSeen(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, d databases) {
		s, k := newLogServer(t, d.empty(t), newLogKey(t)), &kept{}
		p := startWitnessed(t, s.URL, "", t.TempDir(), k)
		p.record(0, 300)
		var backup string
		s.exchange(func(database string) string {
			backup = d.copied(database)
			return database
		})
		p.record(300, 500)
		p.proven(500)
		s.exchange(func(string) string { return backup })
		p.check(0, p.record(500, 600), true)
		if reason := p.alarm(); !strings.Contains(reason, "events and not yet 500") {
			t.Errorf("the reason is %q", reason)
		}
		receipts := p.record(600, 1000) // past the size that it had
		p.end()
		p.check(1, receipts, true)
		if n := k.evidence(); n != 1 {
			t.Errorf("%d contradictions are kept, want 1", n)
		}
		if size := p.metric("notification_audit_log_size"); size != 500 {
			t.Errorf("the proven log has %v events, want the 500 that it had", size)
		}
	})
}

func TestALogThatTwoServersForkIsSeen(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, d databases) {
		a, k := newLogServer(t, d.empty(t), newLogKey(t)), &kept{}
		p := startWitnessed(t, a.URL, "", t.TempDir(), k)
		p.record(0, 100)
		p.proven(100)
		var copied string
		a.exchange(func(database string) string {
			copied = d.copied(database)
			return database
		})
		b := newLogServer(t, copied, a.key)
		p.record(100, 150)
		p.proven(150)
		a.become(b)
		receipts := p.record(150, 250)
		p.alarm()
		p.end()
		p.check(1, receipts, true)
	})
}

func TestALogWithAnotherKeyIsSeenAndMakesNoReceipt(t *testing.T) {
	for name, given := range map[string]bool{"trusted on first use": false, "given": true} {
		t.Run(name, func(t *testing.T) {
			onBothDatabases(t, func(t *testing.T, d databases) {
				s, k := newLogServer(t, d.empty(t), newLogKey(t)), &kept{}
				key := ""
				if given {
					key = s.key.Verifier()
				}
				p := startWitnessed(t, s.URL, key, t.TempDir(), k)
				p.record(0, 20)
				p.proven(20)
				s.exchange(func(string) string {
					s.key = newLogKey(t)
					return d.empty(t)
				})
				receipts := p.record(20, 60)
				if reason := p.alarm(); !strings.Contains(reason, "verify checkpoint") {
					t.Errorf("the reason is %q", reason)
				}
				p.check(1, receipts, false)
			})
		})
	}
}
