// Package standin has servers that behave as providers of channels do: they have
// their limits, their words for errors, and their ways to answer.
package standin

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Host is where the stand-ins listen: an address at which those that send to them
// reach this machine.
var Host = "127.0.0.1"

// front stands before a provider that speaks HTTP and may answer in its place.
type front struct {
	provider http.HandlerFunc

	mu   sync.Mutex
	next []http.HandlerFunc
}

// Answer has the next requests answered so, each once. The provider sees nothing of
// them, as where a gateway before it has its own troubles.
func (f *front) Answer(answers ...func(http.ResponseWriter, *http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, answer := range answers {
		f.next = append(f.next, answer)
	}
}

// Lose has the provider handle the next request, and its answer lost.
func (f *front) Lose() {
	f.Answer(func(_ http.ResponseWriter, r *http.Request) {
		f.provider(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

// ServeHTTP answers one request.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	answer := f.provider
	if len(f.next) > 0 {
		answer, f.next = f.next[0], f.next[1:]
	}
	f.mu.Unlock()
	answer(w, r)
}

// newServer returns a server that is not started yet and ends with the test.
func newServer(tb testing.TB, handler http.Handler) *httptest.Server {
	s := &httptest.Server{Listener: listen(tb), Config: &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), // clients go when they like
	}}
	tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func listen(tb testing.TB) net.Listener {
	listener, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	return listener
}

// Impersonate returns the URL of a proxy that leads every connection to the handler,
// as the server that the configuration describes. It ends with the test.
func Impersonate(tb testing.TB, server *tls.Config, handler http.Handler) (proxy string) {
	secure := newServer(tb, handler)
	secure.TLS = server
	secure.StartTLS()
	return Tunnel(tb, secure.Listener.Addr().String())
}

// Tunnel returns the URL of a proxy that leads every connection to one address. It ends
// with the test.
func Tunnel(tb testing.TB, address string) (proxy string) {
	way := newServer(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { connect(w, r, address) }))
	way.Start()
	return way.URL
}

// connect joins a connection that asks for another one to the server at an address.
func connect(w http.ResponseWriter, r *http.Request, address string) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	_, _ = io.WriteString(in, "HTTP/1.1 200 Connected\r\n\r\n")
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{in: out, out: in} {
		both.Go(func() {
			if _, err := io.Copy(to, from); errors.Is(err, syscall.ECONNRESET) {
				_ = to.(*net.TCPConn).SetLinger(0) // which resets the other one too
			}
			_ = to.Close()
		})
	}
	both.Wait()
}
