package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func events(n int) []audit.Event {
	list := make([]audit.Event, n)
	for i := range list {
		list[i] = audit.Event{EventID: audit.EventID(fmt.Sprint(i)), EventData: json.RawMessage(`{}`)}
	}
	return list
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv
}

func TestAURLThatIsNotAllowedIsRefusedWithoutBeingRepeated(t *testing.T) {
	for _, raw := range []string{
		"", "datastorage:8080", "ftp://host", "http://", "http://:80", "http://host/api", "http://host/?a=b",
		"http://host?", "http://host#x", "http://user:hunter2@host", "http://ho st:hunter2",
	} {
		_, err := New(Options{URL: raw})
		if err == nil || !strings.Contains(err.Error(), "--datastorage-url must be http://HOST[:PORT]") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error is %v", raw, err)
		}
	}
	for _, raw := range []string{"http://host", "http://host/", "https://host:8443", "http://[::1]:30090"} {
		if _, err := New(Options{URL: raw}); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestAnswersAreReadAsWhatTheySay(t *testing.T) {
	two := events(2)
	stored := audit.Facts{EventType: "t", NotificationUID: "u", Channel: "c", Attempt: 2, ContentDigest: "d"}
	for _, tc := range []struct {
		name, body string
		status     int
		header     string
		ack        audit.Ack
		want       *audit.PostError
	}{
		{
			name: "stored", status: 201, ack: audit.Ack{LogIndices: []int64{4, 7}, Duplicates: 1, Checkpoint: "x"},
			body: fmt.Sprintf(`{"event_ids":[%q,%q],"log_indices":[4,7],"duplicates":1,"checkpoint":"x","message":"m"}`, two[0].EventID, two[1].EventID),
		},
		{name: "accepted for later", status: 202, body: `{"status":"accepted"}`},
		{name: "garbage in a success", status: 200, body: "<html>"},
		{name: "IDs of other events", status: 201, body: `{"event_ids":["a","b"],"log_indices":[4,7],"checkpoint":"x"}`},
		{
			name: "pointers", status: 400, body: `{"title":"Bad","detail":"2 events are invalid","errors":[{"pointer":"/1/event_type","detail":"is required"},{"pointer":"/9","detail":"?"},{"pointer":"","detail":"?"},{"pointer":"/x","detail":"?"},{"pointer":"/-1","detail":"?"}]}`,
			want: &audit.PostError{Status: 400, Reason: "2 events are invalid", Faults: []audit.Fault{{Index: 1, Detail: "/event_type is required"}}},
		},
		{name: "no pointers", status: 422, body: `{"title":"Bad","type":"https://kubernaut.ai/problems/invalid-event"}`, want: &audit.PostError{Status: 422, Kind: "invalid-event", Reason: "Bad"}},
		{
			name: "conflict", status: 409, body: `{"detail":"other content","errors":[{"pointer":"/0/event_id","detail":"is stored","log_index":12,"stored":{"event_type":"t","notification_uid":"u","channel":"c","attempt":2,"content_digest":"d"}}]}`,
			want: &audit.PostError{Status: 409, Reason: "other content", Faults: []audit.Fault{{Index: 0, Detail: "/event_id is stored", Stored: &audit.Stored{LogIndex: 12, Facts: stored}}}},
		},
		{name: "too large", status: 413, want: &audit.PostError{Status: 413, Reason: "Request Entity Too Large", Foreign: true}},
		{name: "slow down", status: 429, header: "7", want: &audit.PostError{Status: 429, Reason: "Too Many Requests", RetryAfter: 7 * time.Second, Foreign: true}},
		{name: "slow down, negative", status: 429, header: "-7", want: &audit.PostError{Status: 429, Reason: "Too Many Requests", Foreign: true}},
		{name: "unavailable", status: 503, body: strings.Repeat("long ", 1000), want: &audit.PostError{Status: 503, Reason: strings.Repeat("long ", 51) + "l", Foreign: true}},
		{name: "redirect", status: 307, body: "moved", want: &audit.PostError{Status: 307, Reason: "redirects are not followed", Foreign: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var requests atomic.Int32
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if r.Method != http.MethodPost || r.URL.Path != "/api/v1/audit/events/batch" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("request is %s %s, %s", r.Method, r.URL, r.Header.Get("Content-Type"))
				}
				var got []audit.Event
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil || len(got) != 2 || got[1].EventID != two[1].EventID {
					t.Errorf("body is %+v, %v", got, err)
				}
				if tc.status == 307 {
					w.Header().Set("Location", "/elsewhere")
				}
				if tc.header != "" {
					w.Header().Set("Retry-After", tc.header)
				}
				if strings.HasPrefix(tc.body, "{\"") && tc.status >= 400 {
					w.Header().Set("Content-Type", "application/problem+json")
				}
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			ack, err := newClient(t, Options{URL: srv.URL}).Post(t.Context(), two)
			if diff := cmp.Diff(tc.ack, ack); diff != "" {
				t.Errorf("acknowledgement (-want +got):\n%s", diff)
			}
			got, _ := errors.AsType[*audit.PostError](err)
			if diff := cmp.Diff(tc.want, got); diff != "" || (err != nil) != (tc.want != nil) {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestTheLogIsAskedOnceForEachCall(t *testing.T) {
	answers := map[string]string{
		"/api/v1/audit/log/key":                              "name+hash+key\n",
		"/api/v1/audit/log/checkpoint":                       "origin\n1\n",
		"/api/v1/audit/log/proof/consistency?from=3&to=1234": `{"from":3,"to":1234,"proof":["` + strings.Repeat("A", 42) + `E="]}`,
		"/api/v1/audit/log/proof/consistency?from=3&to=5":    `<html>`,
		"/api/v1/audit/log/proof/consistency?from=3&to=6":    `{"proof":["short"]}`,
		"/api/v1/audit/log/proof/consistency?from=3&to=7":    `{"proof":["` + strings.Repeat("A", maxLogAnswer) + `"]}`,
	}
	var asked []string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		answer, ok := answers[r.URL.String()]
		if !ok {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			answer = `{"type":"https://kubernaut.ai/problems/not-found","detail":"not yet"}`
		}
		io.WriteString(w, answer)
	})
	c := newClient(t, Options{URL: srv.URL})
	if key, err := c.Key(t.Context()); err != nil || key != "name+hash+key" {
		t.Errorf("key is %q, %v", key, err)
	}
	if signed, err := c.Checkpoint(t.Context()); err != nil || signed != "origin\n1\n" {
		t.Errorf("checkpoint is %q, %v", signed, err)
	}
	if proof, err := c.Consistency(t.Context(), 3, 1234); err != nil || len(proof) != 1 || proof[0] != [32]byte{31: 1} {
		t.Errorf("proof is %v, %v", proof, err)
	}
	for to := int64(5); to < 8; to++ {
		if proof, err := c.Consistency(t.Context(), 3, to); err != nil || len(proof) > 0 {
			t.Errorf("what cannot be read is %v, %v", proof, err)
		}
	}
	_, err := c.Consistency(t.Context(), 3, 9)
	got, _ := errors.AsType[*audit.PostError](err)
	if diff := cmp.Diff(&audit.PostError{Status: 404, Kind: "not-found", Reason: "not yet"}, got); diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if len(asked) != 7 {
		t.Errorf("7 calls made the requests %v", asked)
	}
	srv.Close()
	if _, err := c.Key(t.Context()); err == nil || !strings.Contains(err.Error(), "read audit log: ") {
		t.Errorf("error is %v", err)
	}
}

func TestRetryAfterMayBeADate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                               0,
		"soon":                           0,
		"0":                              0,
		"90":                             90 * time.Second,
		"99999999999999":                 1 << 20 * time.Second,
		now.Format(http.TimeFormat):      0,
		"Fri, 02 Jan 2026 03:05:05 GMT":  time.Minute,
		"Friday, 02-Jan-26 03:04:06 GMT": time.Second,
		"Fri, 02 Jan 2026 02:00:00 GMT":  0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q is %s, want %s", header, got, want)
		}
	}
}

// raw serves connections by hand, so that they can be cut where a server would not.
func raw(t *testing.T, handle func(net.Conn)) (url string, accepted *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	accepted = new(atomic.Int32)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			handle(conn)
		}
	}()
	return "http://" + listener.Addr().String(), accepted
}

func readRequest(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 1<<16))
}

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestALostAnswerIsAnErrorWithoutAVerdictAndOneRequest(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		handle     func(net.Conn)
	}{
		{"reset before the answer", "reset", func(c net.Conn) { readRequest(c); reset(c) }},
		{"closed before the answer", "EOF", func(c net.Conn) { readRequest(c); c.Close() }},
		{"cut in the headers", "EOF", func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n")
			c.Close()
		}},
		{"not HTTP", "malformed", func(c net.Conn) { readRequest(c); io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n"); c.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, accepted := raw(t, tc.handle)
			_, err := newClient(t, Options{URL: url}).Post(t.Context(), events(1))
			if _, answered := errors.AsType[*audit.PostError](err); err == nil || answered || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error is %v", err)
			}
			if n := accepted.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

func TestASuccessWhoseBodyBreaksOffIsASuccess(t *testing.T) {
	url, _ := raw(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{\"event_ids\":[")
		c.Close()
	})
	ack, err := newClient(t, Options{URL: url}).Post(t.Context(), events(1))
	if err != nil || ack.LogIndices != nil {
		t.Errorf("acknowledgement %+v, error %v", ack, err)
	}
}

func TestAConnectionThatDiesIdleIsNotTriedAgainUnderneath(t *testing.T) {
	var requests atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			reset(conn)
		}
	})
	c := newClient(t, Options{URL: srv.URL})
	if _, err := c.Post(t.Context(), events(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Post(t.Context(), events(1)); err == nil {
		t.Error("no error")
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests for 2 calls", n)
	}
}

func TestAHangingServerIsGivenUpAfterTheTimeout(t *testing.T) {
	release := make(chan struct{})
	srv := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	c := newClient(t, Options{URL: srv.URL})
	c.timeout = 50 * time.Millisecond
	_, err := c.Post(t.Context(), events(1))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestTheTokenIsReadAnewAndTheCAIsTrusted(t *testing.T) {
	var token atomic.Value
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		token.Store(r.Header.Get("Authorization"))
	}))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	dir := t.TempDir()
	ca, tokens := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	c := newClient(t, Options{URL: srv.URL, CAFile: ca, TokenFile: tokens})
	for _, want := range []string{"first", "second"} {
		write(tokens, want+"\n")
		if _, err := c.Post(t.Context(), events(1)); err != nil {
			t.Fatal(err)
		}
		if got := token.Load(); got != "Bearer "+want {
			t.Errorf("Authorization is %q", got)
		}
	}
	os.Remove(tokens)
	if _, err := c.Post(t.Context(), events(1)); err == nil || !strings.Contains(err.Error(), tokens) {
		t.Errorf("error is %v", err)
	}
	write(ca, "no certificate")
	if _, err := New(Options{URL: srv.URL, CAFile: ca}); err == nil || !strings.Contains(err.Error(), "holds no PEM certificate") {
		t.Errorf("error is %v", err)
	}
}

func isUntrusted(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

func TestAnAuthorityThatIsReplacedIsTrusted(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	other := standin.NewCertificate(t, time.Hour).Server.Certificates[0].Certificate[0]
	ca := filepath.Join(t.TempDir(), "ca.crt")
	write := func(der []byte) {
		t.Helper()
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(other)
	c := newClient(t, Options{URL: srv.URL, CAFile: ca})
	if _, err := c.Post(t.Context(), events(1)); !isUntrusted(err) {
		t.Fatalf("with another authority: %v", err)
	}
	write(srv.Certificate().Raw)
	if _, err := c.Post(t.Context(), events(1)); err != nil {
		t.Errorf("with the right one: %v", err)
	}
	write(nil)
	if _, err := c.Post(t.Context(), events(1)); err != nil {
		t.Errorf("with none, the last one is gone: %v", err)
	}
	write(other)
	if _, err := c.Post(t.Context(), events(1)); !isUntrusted(err) {
		t.Errorf("the server is trusted although its authority is not any more: %v", err)
	}
}

func TestReadyGivesTheReasonWhereItIsNot(t *testing.T) {
	var status atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/readyz" {
			t.Errorf("request is %s %s", r.Method, r.URL)
		}
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, `{"detail":"the database does not answer"}`)
	})
	c := newClient(t, Options{URL: srv.URL})
	for code, want := range map[int32]string{200: "", 503: "/readyz answered 503: the database does not answer", 202: "answered 202"} {
		status.Store(code)
		err := c.Ready(t.Context())
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: error is %v", code, err)
		}
	}
	srv.Close()
	if err := c.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error is %v", err)
	}
}
