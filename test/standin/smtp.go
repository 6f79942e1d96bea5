package standin

import (
	"bufio"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
)

// What an SMTP server does instead of answering.
const (
	Drop  = "drop"  // closes the connection
	Stall = "stall" // says nothing until the client has gone
)

// SMTPOptions say how an SMTP server is set up.
type SMTPOptions struct {
	TLS      *tls.Config // nil: no encryption
	Implicit bool        // TLS from the first byte on instead of STARTTLS

	// Username and Password are needed to send where they are given, for XOAUTH2
	// as for the other mechanisms.
	Username, Password string

	// Size is the largest mail in bytes. 0: Postfix's 10,240,000.
	Size int
}

// Mail is a mail that an SMTP server has taken.
type Mail struct {
	From      string
	To        []string
	Content   []byte // as it came, without what protects its dots
	Encrypted bool
	Username  string
}

// SMTP is a mail server. It may be used from any goroutine.
type SMTP struct {
	Host string
	Port int32

	options SMTPOptions

	mu       sync.Mutex
	answers  map[string][]string
	asked    []string
	mails    []Mail
	password string
}

// NewSMTP starts a mail server that ends with the test.
func NewSMTP(tb testing.TB, o SMTPOptions) *SMTP {
	listener := listen(tb)
	if o.Size == 0 {
		o.Size = 10240000
	}
	address := listener.Addr().(*net.TCPAddr)
	s := &SMTP{Host: Host, Port: int32(address.Port), options: o, answers: map[string][]string{}, password: o.Password}
	ended := make(chan struct{})
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { s.serve(conn, ended) })
		}
	})
	tb.Cleanup(func() {
		_ = listener.Close()
		close(ended)
		sessions.Wait()
	})
	return s
}

// Answer has the next asks of a step answered so, each once. Steps are greeting,
// TLS (the handshake, which only Drop and Stall suit), EHLO, STARTTLS, AUTH, MAIL,
// RCPT or RCPT with an address, DATA, the message as ".", and QUIT. An answer is
// sent as it is, with a line end; after one that begins with 421 the server goes.
func (s *SMTP) Answer(step string, answers ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[step] = append(s.answers[step], answers...)
}

// SetPassword makes a password the only valid one.
func (s *SMTP) SetPassword(password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.password = password
}

// Mails returns what was taken so far.
func (s *SMTP) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Asked returns all lines that clients have sent outside of mails.
func (s *SMTP) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// prepared takes the answer to a step that was prepared, empty for none.
func (s *SMTP) prepared(step string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.answers[step]
	if len(all) == 0 {
		return ""
	}
	s.answers[step] = all[1:]
	return all[0]
}

func (s *SMTP) serve(conn net.Conn, ended <-chan struct{}) {
	session := &smtpSession{SMTP: s, conn: conn, r: bufio.NewReader(conn), ended: ended}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ended:
		case <-done:
		}
		_ = conn.Close()
	}()
	if s.options.Implicit && session.secure() != nil {
		return
	}
	if session.say("greeting", "220 mail.example.com ESMTP stand-in") != nil {
		return
	}
	for {
		line, err := session.line()
		if err != nil {
			return
		}
		if err := session.command(line); err != nil {
			return
		}
	}
}
