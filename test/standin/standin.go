// Package standin has servers that behave as providers of channels do: they have
// their limits, their words for errors, and their ways to answer.
package standin

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Host is where the stand-ins listen: an address at which those that send to them
// reach this machine.
var Host = "127.0.0.1"

// newServer returns a server that is not started yet and ends with the test.
func newServer(tb testing.TB, handler http.Handler) *httptest.Server {
	s := &httptest.Server{Listener: listen(tb), Config: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}}
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
