package harness

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
)

// Mode is how a Proxy treats connections.
type Mode int

const (
	// Pass forwards all.
	Pass Mode = iota
	// Refuse does not listen.
	Refuse
	// ResetConnections breaks each connection as it is made.
	ResetConnections
	// CutAnswers forwards what the client sends and breaks the connection as soon
	// as the server answers: the server has done what it was asked to.
	CutAnswers
	// Hold takes connections and what the client sends, and gives no answer.
	Hold
)

// Proxy stands before a TCP server and breaks its connections on request. It may
// be used from any goroutine.
type Proxy struct {
	Address string

	tb             testing.TB
	target         string
	server, client *tls.Config // nil: no TLS
	conns          sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	mode     Mode
	left     int // how many more times mode applies, negative for ever
	open     map[net.Conn]bool
	taken    int
	closed   bool
}

// NewProxy starts a proxy before the server at the address host:port, which need
// not be there yet. It ends with the test.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	return NewTLSProxy(tb, target, nil, nil)
}

// NewTLSProxy is NewProxy for connections over TLS, which end at the proxy: it is
// the server that the one configuration describes, and the other's client.
func NewTLSProxy(tb testing.TB, target string, server, client *tls.Config) *Proxy {
	tb.Helper()
	p := &Proxy{Address: FreeAddress(tb), tb: tb, target: target, server: server, client: client, open: map[net.Conn]bool{}}
	p.Set(Pass, 0)
	tb.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Set(Refuse, 0)
		p.conns.Wait()
	})
	return p
}

// Set changes the mode, for the next n times that it applies where n is not 0,
// after which the proxy passes all. Open connections are broken.
func (p *Proxy) Set(mode Mode, n int) {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.left = mode, n
	if n == 0 {
		p.left = -1
	}
	for conn := range p.open {
		reset(conn)
	}
	switch {
	case mode == Refuse && p.listener != nil:
		_ = p.listener.Close()
		p.listener = nil
	case mode != Refuse && p.listener == nil:
		listener, err := net.Listen("tcp", p.Address)
		if err != nil {
			p.tb.Fatal(err)
		}
		p.listener = listener
		p.conns.Go(func() { p.accept(listener) })
	}
}

// Taken returns how many connections clients have made so far.
func (p *Proxy) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// applies reports whether the mode is in force, and counts that it was applied.
func (p *Proxy) applies(mode Mode) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != mode {
		return false
	}
	if p.left--; p.left == 0 {
		p.mode = Pass
	}
	return true
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.taken++
		p.mu.Unlock()
		p.conns.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(conn net.Conn) {
	defer p.track(conn)()
	if p.applies(ResetConnections) {
		reset(conn)
		return
	}
	if p.applies(Hold) {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	target, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(conn)
		return
	}
	defer p.track(target)()
	client, server := conn, target
	if p.server != nil {
		client, server = tls.Server(conn, p.server), tls.Client(target, p.client)
	}
	p.conns.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.(interface{ CloseWrite() error }).CloseWrite()
	})
	buffer := make([]byte, 32<<10)
	for {
		n, err := server.Read(buffer)
		if n > 0 && p.applies(CutAnswers) {
			reset(conn)
			return
		}
		if _, writeErr := client.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// track notes an open connection and returns what closes it.
func (p *Proxy) track(conn net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[conn] = true
	if p.closed {
		reset(conn)
	}
	return func() {
		_ = conn.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, conn)
	}
}
