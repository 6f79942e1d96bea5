package harness

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Received is one request that a Sink has read to its end.
type Received struct {
	Path   string
	Key    string // its Idempotency-Key
	Header http.Header
	Body   []byte
	At     time.Time
}

// Answer is how a Sink answers a request whose body it has read.
type Answer func(w http.ResponseWriter, r *http.Request)

// Status answers with a status.
func Status(code int) Answer {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// RetryAfter answers with a status and how many seconds to wait.
func RetryAfter(code, seconds int) Answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		w.WriteHeader(code)
	}
}

// RetryAt answers with a status and the date until which to wait. Dates have whole
// seconds: it is the first that is so long from then, or longer.
func RetryAt(code int, wait time.Duration) Answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		at := time.Now().Add(wait + time.Second - time.Nanosecond)
		w.Header().Set("Retry-After", at.UTC().Format(http.TimeFormat))
		w.WriteHeader(code)
	}
}

// Reset breaks the connection, so that the sender never learns that it was heard.
func Reset(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		reset(conn)
	}
}

// IfHeader gives one answer to requests with a header of that value and another
// to the rest.
func IfHeader(name, value string, yes, no Answer) Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(name) == value {
			yes(w, r)
		} else {
			no(w, r)
		}
	}
}

// Hang gives no answer for as long as the sender waits.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// After gives an answer some time later, unless the sender has given up.
func After(d time.Duration, answer Answer) Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// Sink receives webhooks on loopback, keeps them and answers as it is told to.
// It may be used from any goroutine.
type Sink struct {
	URL string // without a path

	mu       sync.Mutex
	received []Received
	answers  map[string][]Answer
}

// NewSink starts a sink that answers 200 until the test ends.
func NewSink(tb testing.TB) *Sink {
	s := &Sink{answers: map[string][]Answer{}}
	listener, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	tb.Cleanup(func() {
		server.CloseClientConnections() // some may hang
		server.Close()
	})
	s.URL = server.URL
	return s
}

// Answer has the next requests to a path answered in this order. The last answer
// is for all those that follow too.
func (s *Sink) Answer(path string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answers
}

// ServeHTTP keeps the request and answers it.
func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.next(Received{
		Path: r.URL.Path, Key: r.Header.Get("Idempotency-Key"), Header: r.Header.Clone(), Body: body, At: time.Now(),
	})(w, r)
}

func (s *Sink) next(r Received) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received = append(s.received, r)
	answers := s.answers[r.Path]
	switch len(answers) {
	case 0:
		return Status(http.StatusOK)
	case 1:
	default:
		s.answers[r.Path] = answers[1:]
	}
	return answers[0]
}

// Received returns what came to a path so far, in order; to all paths for "".
func (s *Sink) Received(path string) []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Received
	for _, r := range s.received {
		if path == "" || r.Path == path {
			found = append(found, r)
		}
	}
	return found
}

// ByKey counts what came to a path, or to all paths for "", by its key.
func (s *Sink) ByKey(path string) map[string]int {
	count := map[string]int{}
	for _, r := range s.Received(path) {
		count[r.Key]++
	}
	return count
}

// reset closes a connection so that the other side sees it reset.
func reset(conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
