package delivery_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
)

// outcome is an *delivery.Error without its message; zero means accepted.
type outcome struct {
	Class      delivery.Class
	Reason     string
	Code       string
	RetryAfter time.Duration
	Maybe      bool
}

func outcomeOf(err error) outcome {
	e := delivery.Classify(err)
	if e == nil {
		return outcome{}
	}
	return outcome{Class: e.Class, Reason: e.Reason, Code: e.Code, RetryAfter: e.RetryAfter, Maybe: e.MaybeDelivered}
}

func checkOutcome(t *testing.T, err error, want outcome) {
	t.Helper()
	if diff := cmp.Diff(want, outcomeOf(err)); diff != "" {
		t.Errorf("outcome of %v, want (-) and got (+):\n%s", err, diff)
	}
}

func TestStatusDecidesTheOutcome(t *testing.T) {
	transient := func(reason string, code int) outcome {
		return outcome{Class: delivery.Transient, Reason: reason, Code: fmt.Sprint(code)}
	}
	maybe := func(o outcome) outcome { o.Maybe = true; return o }
	permanent := func(reason string, code int) outcome {
		return outcome{Class: delivery.Permanent, Reason: reason, Code: fmt.Sprint(code)}
	}
	config := func(reason string, code int) outcome {
		return outcome{Class: delivery.Config, Reason: reason, Code: fmt.Sprint(code)}
	}
	var status atomic.Int32
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
	})
	w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: server.URL})
	for code, want := range map[int]outcome{
		200: {}, 201: {}, 202: {}, 204: {}, 299: {},
		301: permanent(delivery.ReasonRedirected, 301),
		304: permanent(delivery.ReasonRedirected, 304),
		307: permanent(delivery.ReasonRedirected, 307),
		308: permanent(delivery.ReasonRedirected, 308),
		400: permanent(delivery.ReasonBadRequest, 400),
		401: config(delivery.ReasonUnauthorized, 401),
		402: permanent(delivery.ReasonRejected, 402),
		403: config(delivery.ReasonForbidden, 403),
		404: permanent(delivery.ReasonNotFound, 404),
		405: permanent(delivery.ReasonRejected, 405),
		406: permanent(delivery.ReasonRejected, 406),
		407: config(delivery.ReasonProxyUnauthorized, 407),
		408: maybe(transient(delivery.ReasonRequestTimeout, 408)),
		409: maybe(transient(delivery.ReasonConflict, 409)),
		410: permanent(delivery.ReasonGone, 410),
		411: permanent(delivery.ReasonRejected, 411),
		413: permanent(delivery.ReasonTooLarge, 413),
		414: permanent(delivery.ReasonRejected, 414),
		415: permanent(delivery.ReasonRejected, 415),
		422: permanent(delivery.ReasonUnprocessable, 422),
		425: transient(delivery.ReasonTooEarly, 425),
		429: transient(delivery.ReasonRateLimited, 429),
		431: permanent(delivery.ReasonRejected, 431),
		451: permanent(delivery.ReasonRejected, 451),
		500: maybe(transient(delivery.ReasonServerError, 500)),
		501: transient(delivery.ReasonServerError, 501),
		502: maybe(transient(delivery.ReasonServerError, 502)),
		503: transient(delivery.ReasonServerError, 503),
		504: maybe(transient(delivery.ReasonServerError, 504)),
		520: maybe(transient(delivery.ReasonServerError, 520)),
		600: permanent(delivery.ReasonUnexpectedStatus, 600),
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			status.Store(int32(code))
			_, err := w.Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, want)
			if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("answered %d", code)) {
				t.Errorf("message %q does not say the status", err)
			}
		})
	}
}

func TestRetryAfterIsTaken(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "-5": 0, "soon": 0, "1.5": 0,
		"86401": 24 * time.Hour, "99999999999999999999": 0, "18446744073709551615": 24 * time.Hour,
	} {
		t.Run(value, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", value)
				w.WriteHeader(http.StatusTooManyRequests)
			})
			_, err := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: server.URL}).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429", RetryAfter: want})
		})
	}
	t.Run("a date", func(t *testing.T) {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		_, err := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: server.URL}).Send(t.Context(), sendertest.Message())
		want := outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503", RetryAfter: time.Hour}
		about := cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() < time.Minute })
		if diff := cmp.Diff(want, outcomeOf(err), about); diff != "" {
			t.Errorf("want (-) and got (+):\n%s", diff)
		}
	})
}

func TestBrokenConnectionsAreToldApart(t *testing.T) {
	const body = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
	ambiguous := func(reason string) outcome {
		return outcome{Class: delivery.Ambiguous, Reason: reason, Maybe: true}
	}
	for name, c := range map[string]struct {
		handle  func(*rawServer, *net.TCPConn)
		scheme  string
		timeout time.Duration
		want    outcome
	}{
		"reset after the request was read":  {handle: answering(reset), want: ambiguous(delivery.ReasonNoAnswer)},
		"closed after the request was read": {handle: answering(func(*net.TCPConn) {}), want: ambiguous(delivery.ReasonNoAnswer)},
		"no answer in time":                 {handle: answering(untilClosed), timeout: time.Second, want: ambiguous(delivery.ReasonTimeout)},
		"closed within the status line":     {handle: answering(writing("HTTP/1.1 20")), want: ambiguous(delivery.ReasonMalformedAnswer)},
		"closed within the headers":         {handle: answering(writing("HTTP/1.1 200 OK\r\nA: b\r\n")), want: ambiguous(delivery.ReasonNoAnswer)},
		"headers that never end":            {handle: answering(trickling("HTTP/1.1 200 OK\r\nA: ")), timeout: time.Second, want: ambiguous(delivery.ReasonTimeout)},
		"headers without measure": {
			handle: answering(writing("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 100<<10) + "\r\n\r\n")),
			want:   ambiguous(delivery.ReasonMalformedAnswer),
		},
		"an answer that is not HTTP": {handle: answering(writing("220 mail.example.com ESMTP\r\n")), want: ambiguous(delivery.ReasonMalformedAnswer)},
		"another protocol": {
			handle: answering(func(c *net.TCPConn) {
				writing("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")(c)
				untilClosed(c)
			}),
			want: outcome{Class: delivery.Permanent, Reason: delivery.ReasonUnexpectedStatus, Code: "101"},
		},
		"2xx with garbage for a body":    {handle: answering(writing("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x00\xff{{{")), want: outcome{}},
		"2xx with a body cut short":      {handle: answering(writing(body + "{\"id\":")), want: outcome{}},
		"2xx with a body reset":          {handle: answering(func(c *net.TCPConn) { writing(body)(c); reset(c) }), want: outcome{}},
		"2xx with a body that trickles":  {handle: answering(trickling(body)), timeout: 2 * time.Second, want: outcome{}},
		"reset in the TLS handshake":     {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c); reset(c) }, want: outcome{Class: delivery.Transient, Reason: delivery.ReasonConnectionReset}},
		"closed in the TLS handshake":    {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c) }, want: outcome{Class: delivery.Transient, Reason: delivery.ReasonConnectionReset}},
		"silent in the TLS handshake":    {scheme: "https", timeout: 100 * time.Millisecond, handle: func(_ *rawServer, c *net.TCPConn) { untilClosed(c) }, want: outcome{Class: delivery.Transient, Reason: delivery.ReasonTimeout}},
		"HTTP where TLS is expected":     {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c); writing("HTTP/1.0 400 Bad Request\r\n\r\n")(c) }, want: outcome{Class: delivery.Config, Reason: delivery.ReasonTLSFailed}},
		"garbage where TLS is expected":  {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c); writing("220 mail.example.com ESMTP\r\n")(c) }, want: outcome{Class: delivery.Config, Reason: delivery.ReasonTLSFailed}},
		"a TLS alert that is their own":  {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c); writing("\x15\x03\x01\x00\x02\x02\x50")(c) }, want: outcome{Class: delivery.Transient, Reason: delivery.ReasonTLSFailed}},
		"a TLS alert that turns us away": {scheme: "https", handle: func(_ *rawServer, c *net.TCPConn) { readSome(c); writing("\x15\x03\x01\x00\x02\x02\x28")(c) }, want: outcome{Class: delivery.Config, Reason: delivery.ReasonTLSRefused}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serveRaw(t, c.handle)
			scheme := c.scheme
			if scheme == "" {
				scheme = "http"
			}
			w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: scheme + "://" + server.address, Timeout: c.timeout})
			receipt, err := w.Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if receipt.Digest == "" {
				t.Error("no digest")
			}
			if n := server.requests.Load(); n > 1 {
				t.Errorf("%d requests arrived, want at most 1", n)
			}
		})
	}
}

func readSome(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 4096)) }

func TestNothingListensIsTransient(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: "http://" + address})
	_, err = w.Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonConnectionRefused})
	if want := address + ": connection refused"; err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
}

func TestUnknownNameIsTransient(t *testing.T) {
	w := newWebhook(t, newHTTP(t), delivery.Endpoint{URL: "https://no-such-host.invalid"})
	_, err := w.Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonDNSFailed})
}

func TestCallerThatGivesUpAfterTheWriteLeavesDoubt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := serveRaw(t, answering(func(c *net.TCPConn) { cancel(); untilClosed(c) }))
	w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: "http://" + server.address})
	_, err := w.Send(ctx, sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonCancelled, Maybe: true})
}

func TestBrokenReusedConnectionIsNotReplayed(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){"closed": func(*net.TCPConn) {}, "reset": reset} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int32
			server := serveRaw(t, func(s *rawServer, c *net.TCPConn) {
				connections.Add(1)
				r := bufio.NewReader(c)
				if s.readRequest(r) {
					writing("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")(c)
					s.readRequest(r)
					end(c)
				}
			})
			w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: "http://" + server.address})
			if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
				t.Fatalf("first send: %v", err)
			}
			_, err := w.Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true})
			if r, c := server.requests.Load(), connections.Load(); r != 2 || c != 1 {
				t.Errorf("%d requests on %d connections, want 2 on 1", r, c)
			}
		})
	}
}

// remoteAddresses starts a server that answers with a body of the size and
// remembers the connections that it was asked on.
func remoteAddresses(t *testing.T, size int) (address string, from map[string]bool) {
	t.Helper()
	var mu sync.Mutex
	from = map[string]bool{}
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	})
	return server.URL, from
}

func TestConnectionIsReused(t *testing.T) {
	for name, size := range map[string]int{"small answers": 10, "answers beyond the limit": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			address, from := remoteAddresses(t, size)
			h := newHTTP(t, loopback...)
			for range 3 {
				w := newWebhook(t, h, delivery.Endpoint{URL: address})
				if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
					t.Fatal(err)
				}
			}
			if len(from) != 1 {
				t.Errorf("%d connections, want 1", len(from))
			}
		})
	}
}

func TestCloseEndsIdleConnections(t *testing.T) {
	address, from := remoteAddresses(t, 10)
	h := newHTTP(t, loopback...)
	w := newWebhook(t, h, delivery.Endpoint{URL: address})
	for range 2 {
		if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	if len(from) != 2 {
		t.Errorf("%d connections, want 2", len(from))
	}
}

func TestCertificatesAreChecked(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	clientCert, clientKey := ca.issue(t, nil)
	strangerCert, strangerKey := other.issue(t, nil)
	mutual := ca.serverConfig(t, nil)
	mutual.ClientAuth = tls.RequireAndVerifyClientCert
	mutual.ClientCAs = x509.NewCertPool()
	mutual.ClientCAs.AddCert(ca.cert)
	mutual12 := mutual.Clone()
	mutual12.MaxVersion = tls.VersionTLS12
	old := ca.serverConfig(t, nil)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	config := func(reason string) outcome { return outcome{Class: delivery.Config, Reason: reason} }
	for name, c := range map[string]struct {
		server   *tls.Config
		endpoint delivery.Endpoint
		want     outcome
	}{
		"authority of the channel":   {server: ca.serverConfig(t, nil), endpoint: delivery.Endpoint{CA: ca.pem}},
		"authority of the system":    {server: ca.serverConfig(t, nil), want: config(delivery.ReasonUnknownAuthority)},
		"another authority":          {server: ca.serverConfig(t, nil), endpoint: delivery.Endpoint{CA: other.pem}, want: config(delivery.ReasonUnknownAuthority)},
		"expired":                    {server: ca.serverConfig(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonCertificateInvalid)},
		"another host":               {server: ca.serverConfig(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }), endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonCertificateInvalid)},
		"not for servers":            {server: ca.serverConfig(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonCertificateInvalid)},
		"TLS 1.1":                    {server: old, endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonTLSRefused)},
		"client certificate":         {server: mutual, endpoint: delivery.Endpoint{CA: ca.pem, Cert: clientCert, Key: clientKey}},
		"no client certificate":      {server: mutual, endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonTLSRefused)},
		"no client certificate, 1.2": {server: mutual12, endpoint: delivery.Endpoint{CA: ca.pem}, want: config(delivery.ReasonTLSRefused)},
		"a stranger's certificate":   {server: mutual, endpoint: delivery.Endpoint{CA: ca.pem, Cert: strangerCert, Key: strangerKey}, want: config(delivery.ReasonTLSRefused)},
	} {
		t.Run(name, func(t *testing.T) {
			var arrived atomic.Int32
			server := serveTLS(t, c.server, func(w http.ResponseWriter, r *http.Request) { arrived.Add(1); ok(w, r) })
			c.endpoint.URL = server.URL
			_, err := newWebhook(t, newHTTP(t, loopback...), c.endpoint).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if want := int32(1); c.want == (outcome{}) != (arrived.Load() == want) {
				t.Errorf("%d requests arrived", arrived.Load())
			}
		})
	}
}

func TestUnknownErrorsAreTransient(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want outcome
	}{
		"nil":        {},
		"unknown":    {io.ErrShortBuffer, outcome{Class: delivery.Transient, Reason: delivery.ReasonUnknown}},
		"deadline":   {fmt.Errorf("send: %w", context.DeadlineExceeded), outcome{Class: delivery.Transient, Reason: delivery.ReasonTimeout}},
		"cancelled":  {context.Canceled, outcome{Class: delivery.Transient, Reason: delivery.ReasonCancelled}},
		"classified": {fmt.Errorf("send: %w", &delivery.Error{Class: delivery.Permanent, Reason: "Gone"}), outcome{Class: delivery.Permanent, Reason: "Gone"}},
	} {
		t.Run(name, func(t *testing.T) { checkOutcome(t, c.err, c.want) })
	}
	got := delivery.Classify(fmt.Errorf("post \"https://user:hunter2@example.com/services/T0/s3cret?token=abc#f\": no\nluck"))
	want := &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonUnknown, Message: `post "https://example.com": no luck`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
}
