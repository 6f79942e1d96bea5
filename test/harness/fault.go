package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"k8s.io/client-go/util/cert"
)

// FaultKind is what goes wrong with one request.
type FaultKind string

const (
	// FaultPass is nothing at all.
	FaultPass FaultKind = ""
	// FaultReset resets the connection before the request's body is read.
	FaultReset FaultKind = "reset"
	// FaultResetAfterRead reads the request to its end, forwards nothing of it and
	// resets the connection.
	FaultResetAfterRead FaultKind = "resetAfterRead"
	// FaultCutAnswer forwards the request, waits for the end of the answer and
	// resets the connection instead of giving it: what was asked for is done, and
	// who asked never hears of it.
	FaultCutAnswer FaultKind = "cutAnswer"
	// FaultCutMiddle does the same after the answer's head and half of its body, or
	// after its status line where it has no body.
	FaultCutMiddle FaultKind = "cutMiddle"
	// FaultHold forwards the request, waits for the end of the answer and keeps it
	// back until Release.
	FaultHold FaultKind = "hold"
	// FaultHoldBefore reads the request to its end and keeps it from the server
	// until Release.
	FaultHoldBefore FaultKind = "holdBefore"
	// FaultTrickle forwards the request and gives the answer byte by byte.
	FaultTrickle FaultKind = "trickle"
	// FaultAnswer reads the request to its end and gives an answer of its own.
	FaultAnswer FaultKind = "answer"
	// FaultReplace forwards the request and gives an answer of its own in place of
	// one that tells of success.
	FaultReplace FaultKind = "replace"
)

// Fault is a kind with what belongs to it. The zero Fault passes.
type Fault struct {
	Kind FaultKind

	// Held is called when the request has come to where FaultHold or
	// FaultHoldBefore keeps it. It may be nil.
	Held func()

	// Pause is the time between two bytes of FaultTrickle. What is left of the
	// answer after Limit comes at once.
	Pause, Limit time.Duration

	// Status, Header and Body are the answer of FaultAnswer and FaultReplace.
	Status int
	Header http.Header
	Body   string
}

// What Counts adds to the kinds of faults.
const (
	countPass        = "pass"
	countRefuse      = "refuse"
	countBreak       = "break"
	countUnreachable = "unreachable"
)

// FaultProxy stands before an HTTP server and does to each request what it is told
// to. Answers pass as they come, watches too. It has no timeouts. A request that
// the server does not answer, since it is not there or has ended, is answered by a
// reset. It may be used from any goroutine.
//
// Faults that wait for the end of an answer wait for as long as a watch lasts.
type FaultProxy struct {
	Address string // host:port, the same for as long as the proxy lives
	URL     string // without a path
	CA      []byte // PEM, for a proxy with TLS: what its clients have to trust

	tb        testing.TB
	target    *url.URL
	transport *http.Transport
	secure    *tls.Config // nil: plain HTTP
	server    *http.Server
	work      sync.WaitGroup // requests and listeners

	mu       sync.Mutex
	decide   func(*http.Request) Fault
	listener net.Listener // nil while connections are refused
	open     map[net.Conn]bool
	release  chan struct{} // closed by Release
	counts   map[string]int
	closed   bool
}

// NewFaultProxy starts a proxy that speaks plain HTTP, before the server at a URL
// without a path, which need not be there yet. The TLS configuration is for the
// connection to that server and may be nil. The proxy ends with the test.
func NewFaultProxy(tb testing.TB, target string, client *tls.Config) *FaultProxy {
	tb.Helper()
	p := newFaultProxy(tb, target, client)
	p.URL = "http://" + p.Address
	p.Refuse(false)
	return p
}

// NewTLSFaultProxy is NewFaultProxy for clients that speak HTTPS, and take it for one
// of the given hosts or for this machine.
func NewTLSFaultProxy(tb testing.TB, target string, client *tls.Config, hosts ...string) *FaultProxy {
	tb.Helper()
	p := newFaultProxy(tb, target, client)
	certificate, key, err := cert.GenerateSelfSignedCertKey(Host, nil, append(hosts, "localhost"))
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		tb.Fatal(err)
	}
	p.URL, p.CA = "https://"+p.Address, certificate
	p.secure = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	p.Refuse(false)
	return p
}

func newFaultProxy(tb testing.TB, target string, client *tls.Config) *FaultProxy {
	tb.Helper()
	to, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &FaultProxy{
		Address: FreeAddress(tb), tb: tb, target: to,
		transport: &http.Transport{TLSClientConfig: client, DisableCompression: true, MaxIdleConnsPerHost: 100},
		open:      map[net.Conn]bool{}, release: make(chan struct{}), counts: map[string]int{},
	}
	p.server = &http.Server{
		Handler:     http.HandlerFunc(p.serve),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState:   p.track,
		ErrorLog:    log.New(io.Discard, "", 0), // a handshake that a client gives up is no news
	}
	tb.Cleanup(func() {
		p.mu.Lock()
		p.closed, p.listener = true, nil
		p.mu.Unlock()
		cancel()
		_ = p.server.Close()
		p.work.Wait()
		p.transport.CloseIdleConnections()
	})
	return p
}

// Decide sets the function that is asked about each request. It may be called for
// several at once. To see the body it has to use PeekBody. A nil function passes all.
func (p *FaultProxy) Decide(f func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = f
}

// Refuse stops listening and resets all open connections, or listens again.
func (p *FaultProxy) Refuse(refuse bool) {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || refuse == (p.listener == nil):
	case refuse:
		_ = p.listener.Close()
		p.listener = nil
		p.counts[countRefuse]++
		p.resetAll()
	default:
		listener, err := net.Listen("tcp", p.Address)
		if err != nil {
			p.tb.Error(err)
			return
		}
		p.listener = listener
		serving := listener
		if p.secure != nil {
			serving = tls.NewListener(listener, p.secure)
		}
		p.work.Go(func() { _ = p.server.Serve(serving) })
	}
}

// Break resets all open connections. New ones are taken at once.
func (p *FaultProxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[countBreak]++
	p.resetAll()
}

func (p *FaultProxy) resetAll() {
	for conn := range p.open {
		reset(conn)
	}
}

// Release lets all go on that is being held.
func (p *FaultProxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.release)
	p.release = make(chan struct{})
}

// Counts returns how often each fault was done, by its kind, where "pass" is
// FaultPass. "refuse" and "break" count the calls, "unreachable" the requests that
// the server behind did not answer.
func (p *FaultProxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// PeekBody returns the body of a request and leaves it to be read again.
func PeekBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var again io.Reader = bytes.NewReader(body)
	if err != nil {
		again = io.MultiReader(again, iotest.ErrReader(err))
	}
	r.Body = io.NopCloser(again)
	return body, err
}

func (p *FaultProxy) count(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[what]++
}

func (p *FaultProxy) track(conn net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		p.open[conn] = true
		if p.listener == nil {
			reset(conn)
		}
	case http.StateClosed:
		delete(p.open, conn)
	}
}

// enter returns the fault for a request, and false where the proxy has ended.
func (p *FaultProxy) enter(r *http.Request) (Fault, bool) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return Fault{}, false
	}
	p.work.Add(1)
	decide := p.decide
	p.mu.Unlock()
	if decide == nil {
		return Fault{}, true
	}
	return decide(r), true
}
