package datastorage_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/standin"
)

// server is a Run in this process.
type server struct {
	t         *testing.T
	opts      datastorage.Options
	stop      context.CancelFunc
	listening chan string
	ended     chan error
}

func start(t *testing.T, databaseURL string, edit ...func(*datastorage.Options)) *server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{t: t, stop: cancel, listening: make(chan string, 1), ended: make(chan error, 1)}
	s.opts = datastorage.Options{
		Listen: "127.0.0.1:0", DatabaseURL: databaseURL, Auth: "none", DrainDelay: 50 * time.Millisecond,
		SigningKey: filepath.Join(t.TempDir(), "signing.key"), Openers: openers, Log: logr.Discard(),
		Listening: func(a net.Addr) { s.listening <- a.String() },
	}
	for _, f := range edit {
		f(&s.opts)
	}
	go func() { s.ended <- datastorage.Run(ctx, s.opts) }()
	t.Cleanup(func() {
		s.stop()
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func (s *server) address() string {
	s.t.Helper()
	select {
	case a := <-s.listening:
		return a
	case err := <-s.ended:
		s.ended <- nil
		s.t.Fatalf("Run ended before it listened: %v", err)
		return ""
	}
}

func (s *server) wait() error {
	err := <-s.ended
	s.ended <- nil
	return err
}

func TestServerThatWaitsForTheDatabaseCanBeStopped(t *testing.T) {
	waiting := make(chan string, 100)
	log := funcr.New(func(_, line string) { waiting <- line }, funcr.Options{})
	s := start(t, "postgres:///x?host="+t.TempDir(), func(o *datastorage.Options) { o.Log = log })
	for !strings.Contains(<-waiting, "Waiting for the database") {
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Errorf("got %v, want a clean end", err)
	}
}

func TestUnknownDatabaseIsRefusedAtOnce(t *testing.T) {
	for _, url := range []string{"mysql://user:hunter2@host/db", "hunter2", ""} {
		err := datastorage.Run(t.Context(), datastorage.Options{DatabaseURL: url, Openers: openers, Log: logr.Discard()})
		if err == nil || !strings.Contains(err.Error(), "--database-url must begin with one of postgres:, sqlite:") {
			t.Errorf("%q: got %v, want the schemes that are allowed", url, err)
		}
	}
}

func TestReadinessEndsBeforeTheServerStops(t *testing.T) {
	s := start(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"), func(o *datastorage.Options) { o.DrainDelay = time.Second })
	c := newClient(t, "http://"+s.address())
	c.get("/readyz").want(t, 200)
	s.stop()
	for {
		a := c.get("/readyz")
		if a.code == 200 {
			continue // stop has not arrived yet
		}
		if p := a.problem(t, 503, "unavailable"); !strings.Contains(p.Detail, "shutting down") {
			t.Errorf("detail is %q, want it to say shutting down", p.Detail)
		}
		break
	}
	// Whoever has not noticed yet is still served, on a connection that ends.
	resp, err := c.http.Post(c.base+batchPath, "application/json", strings.NewReader(batch(event(0))))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated || !resp.Close {
		t.Errorf("got %d, close %v, want 201 and the end of the connection", resp.StatusCode, resp.Close)
	}
}

func TestServersThatStartTogetherShareTheLog(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := filepath.Join(t.TempDir(), "made", "signing.key")
		shared := func(o *datastorage.Options) { o.SigningKey = key }
		first, second := start(t, databaseURL, shared), start(t, databaseURL, shared)
		a, b := newClient(t, "http://"+first.address()), newClient(t, "http://"+second.address())
		var wg sync.WaitGroup
		for n := range 10 {
			for c, other := range map[*client]int{a: n + 1, b: 100 + n} {
				wg.Go(func() {
					if got := c.post(batchPath, batch(event(n), event(other))); got.code != 201 {
						t.Errorf("got %d %s, want 201", got.code, got.body)
					}
				})
			}
		}
		wg.Wait()
		var l list
		b.get(eventsPath).want(t, 200).decode(t, &l)
		if l.Pagination.Total != 21 {
			t.Errorf("%d events are stored, want 21", l.Pagination.Total)
		}
	})
}

func TestMigrateReturnsWhenTheSchemaIsThere(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		var log bytes.Buffer
		if err := datastorage.Main(t.Context(), []string{"migrate", "--database-url", databaseURL}, io.Discard, &log, openers); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "Schema is up to date") {
			t.Errorf("log is %q", log.String())
		}
	})
}

func TestADatabaseThatForgetsIsTakenOnlyWhereAFlagSaysSo(t *testing.T) {
	forgets := storetest.SharedPostgres(t).NewDatabase(t) + "&options=-csynchronous_commit%3Doff"
	open := func(flags ...string) error {
		return datastorage.Main(t.Context(), append([]string{"migrate", "--database-url", forgets}, flags...), io.Discard, io.Discard, openers)
	}
	if err := open(); !errors.Is(err, datastorage.ErrConfig) || !strings.Contains(err.Error(), "synchronous_commit is off, so a crash would lose acknowledged events; set it to on, or start with --unsafe-no-sync") {
		t.Errorf("got %v, want a refusal that says what to do", err)
	}
	if err := open("--unsafe-no-sync"); err != nil {
		t.Errorf("it is refused although the flag is there: %v", err)
	}
}

func TestCertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	first := writeCertificate(t, dir)
	s := start(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"), func(o *datastorage.Options) { o.TLSCertDir = dir })
	address := s.address()
	served := func() *big.Int {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
			t.Fatalf("got %q, %v", got, err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	if got := served(); got.Cmp(first) != 0 {
		t.Errorf("serial is %v, want %v", got, first)
	}
	second := writeCertificate(t, dir)
	for served().Cmp(second) != 0 {
		if t.Context().Err() != nil {
			t.Fatal("the new certificate is not served")
		}
	}
}

func writeCertificate(t *testing.T, dir string) *big.Int {
	t.Helper()
	certificate := standin.NewCertificate(t, time.Hour)
	certificate.Write(t, dir)
	return certificate.Server.Certificates[0].Leaf.SerialNumber
}

func TestLogIsQuietExceptForWritesAndLoudAboutConflicts(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	log := funcr.NewJSON(func(line string) { mu.Lock(); defer mu.Unlock(); lines = append(lines, line) }, funcr.Options{})
	s := start(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"), func(o *datastorage.Options) { o.Log = log })
	c := newClient(t, "http://"+s.address())
	mu.Lock()
	lines = nil
	mu.Unlock()
	for _, path := range []string{"/readyz", "/health", "/metrics", eventsPath, "/nowhere"} {
		c.get(path)
	}
	c.post(batchPath, batch(event(0)), "X-Request-ID", "my-request").want(t, 201)
	mu.Lock()
	defer mu.Unlock()
	if len(lines) != 1 || !strings.Contains(lines[0], `"requestID":"my-request"`) || !strings.Contains(lines[0], `"code":201`) {
		t.Errorf("got %q, want the write alone", lines)
	}
	lines = nil
	mu.Unlock()
	c.post(batchPath, batch(with(event(0), "event_action", `"other"`))).want(t, 409)
	mu.Lock()
	if text := strings.Join(lines, "\n"); !strings.Contains(text, `"msg":"Refused events whose IDs are taken by other content; the table audit_conflicts has them","error":"append events: 1 of them`) {
		t.Errorf("got %q, want an error about the conflict", text)
	}
}
