package delivery_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

// mailbox is what a channel needs to know of the stand-in.
func mailbox(s *standin.SMTP, encryption string, ca []byte) delivery.EmailConfig {
	return delivery.EmailConfig{
		Endpoint: delivery.Endpoint{Timeout: 10 * time.Second, CA: ca},
		Host:     s.Host, Port: s.Port, Encryption: encryption,
		From: "notifications@example.com", To: []string{"ops@example.com", "on-call@example.org"}, Cc: []string{"archive@example.com"},
		ReplyTo: "help@example.com",
	}
}

func withAuth(c delivery.EmailConfig, mechanism, password string) delivery.EmailConfig {
	c.Mechanism, c.Username, c.Password = mechanism, "robot@example.com", password
	return c
}

func newEmail(t *testing.T, c delivery.EmailConfig) *delivery.Email {
	t.Helper()
	e, err := delivery.NewEmail(newHTTP(t, loopback...), c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mailKey(t *testing.T, content []byte) string {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("read mail: %v", err)
	}
	key, _, _ := strings.Cut(strings.TrimPrefix(m.Header.Get("Message-ID"), "<"), "@")
	return key
}

func TestEmailConforms(t *testing.T) {
	ca := newAuthority(t)
	for name, c := range map[string]struct{ encryption, mechanism string }{
		"StartTLS with Plain": {delivery.EmailStartTLS, delivery.EmailPlain},
		"StartTLS with Login": {delivery.EmailStartTLS, delivery.EmailLogin},
		"TLS with XOAUTH2":    {delivery.EmailTLS, delivery.EmailXOAUTH2},
		"None":                {delivery.EmailNone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sendertest.Run(t, sendertest.Harness{
				New: func(t *testing.T) sendertest.Channel {
					o := standin.SMTPOptions{Implicit: c.encryption == delivery.EmailTLS}
					if c.encryption != delivery.EmailNone {
						o.TLS, o.Username, o.Password = ca.serverConfig(t, nil), "robot@example.com", "right password"
					}
					server := standin.NewSMTP(t, o)
					config := mailbox(server, c.encryption, ca.pem)
					if c.mechanism != "" {
						config = withAuth(config, c.mechanism, "right password")
					}
					return sendertest.Channel{
						Sender: newEmail(t, config),
						Arrivals: func(t *testing.T) (all []sendertest.Arrival) {
							for _, m := range server.Mails() {
								if m.Encrypted != (c.encryption != delivery.EmailNone) || len(m.To) != 3 {
									t.Errorf("encrypted %t, to %q", m.Encrypted, m.To)
								}
								all = append(all, sendertest.Arrival{Key: mailKey(t, m.Content), Content: m.Content})
							}
							return all
						},
					}
				},
				Failing: func(t *testing.T) map[string]delivery.Sender { return failingEmails(t, ca, c.mechanism) },
				Secrets: plantedEmailSecrets,
			})
		})
	}
}

// plantedEmailSecrets are a password in the forms that it is sent in.
var plantedEmailSecrets = []string{
	plantedPassword,
	base64.StdEncoding.EncodeToString([]byte(plantedPassword)),
	base64.StdEncoding.EncodeToString([]byte("\x00robot@example.com\x00" + plantedPassword)),
	base64.StdEncoding.EncodeToString([]byte("user=robot@example.com\x01auth=Bearer " + plantedPassword + "\x01\x01")),
}

const plantedPassword = "plantedPassword42"

// failingEmails fail at each step, and the server quotes all that it was told.
func failingEmails(t *testing.T, ca *authority, mechanism string) map[string]delivery.Sender {
	t.Helper()
	if mechanism == "" {
		mechanism = delivery.EmailPlain
	}
	quote := "for " + strings.Join(plantedEmailSecrets, " ")
	all := map[string]delivery.Sender{}
	add := func(name string, answers map[string]string) {
		server := standin.NewSMTP(t, standin.SMTPOptions{TLS: ca.serverConfig(t, nil), Username: "robot@example.com", Password: plantedPassword})
		for step, answer := range answers {
			server.Answer(step, answer)
		}
		all[name] = newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), mechanism, plantedPassword))
	}
	for _, step := range []string{"greeting", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "."} {
		add("quotes at "+step, map[string]string{step: "550 5.1.1 no " + quote})
		add("says nonsense at "+step, map[string]string{step: quote})
		add("goes at "+step, map[string]string{step: standin.Drop})
		add("answers in two lines at "+step, map[string]string{step: "454-4.7.0 no " + quote + "\r\n454 4.7.0 really " + quote})
	}
	add("offers nothing", map[string]string{"EHLO": "250-mail.example.com\r\n250 AUTH " + quote})
	return all
}

// smtpCase is what a server answers to a step and what becomes of it.
type smtpCase struct {
	step, answer string
	want         outcome
}

var smtpCases = []smtpCase{
	{"greeting", "421 4.3.2 too busy", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "421 4.3.2"}},
	{"greeting", "554 5.7.1 your network is blocked", outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "554 5.7.1"}},
	{"greeting", "HTTP/1.1 400 Bad Request", outcome{Class: delivery.Config, Reason: delivery.ReasonMalformedAnswer}},
	{"EHLO", "502 what?", outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "502"}},
	{"EHLO", "250 mail.example.com", outcome{Class: delivery.Config, Reason: delivery.ReasonTLSFailed}},
	{"STARTTLS", "454 4.7.0 TLS not available", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "454 4.7.0"}},
	{"STARTTLS", "501 no", outcome{Class: delivery.Config, Reason: delivery.ReasonTLSRefused, Code: "501"}},
	{"AUTH", "454 4.7.0 try again", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "454 4.7.0"}},
	{"AUTH", "535 5.7.8 no", outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "535 5.7.8"}},
	{"AUTH", "534 5.7.9 too weak", outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "534 5.7.9"}},
	{"AUTH", "500 5.5.6 line too long", outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "500 5.5.6"}},
	{"MAIL", "450 4.1.8 unknown for now", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "450 4.1.8"}},
	{"MAIL", "451 4.7.1 greylisted", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "451 4.7.1"}},
	{"MAIL", "452 4.3.1 out of space", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "452 4.3.1"}},
	{"MAIL", "421 4.7.28 rate limit", outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "421 4.7.28"}},
	{"MAIL", "550 5.4.5 daily limit", outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "550 5.4.5"}},
	{"MAIL", "530 5.7.0 authentication required", outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "530 5.7.0"}},
	{"MAIL", "535 5.7.3 no", outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "535 5.7.3"}},
	{"MAIL", "553 5.7.1 not your address", outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "553 5.7.1"}},
	{"MAIL", "553 5.1.8 no such sender", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "553 5.1.8"}},
	{"MAIL", "552 too large", outcome{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge, Code: "552"}},
	{"MAIL", "501 5.5.4 no", outcome{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest, Code: "501 5.5.4"}},
	{"RCPT", "450 4.2.0 busy", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "450 4.2.0"}},
	{"RCPT", "550 no such user", outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "550"}},
	{"RCPT", "551 5.1.6 moved", outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "551 5.1.6"}},
	{"RCPT", "553 5.1.3 bad name", outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "553 5.1.3"}},
	{"RCPT", "550-5.1.1 no such user\r\n550 5.1.1 really", outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "550 5.1.1"}},
	{"RCPT", "550 5.2.1 disabled", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "550 5.2.1"}},
	{"RCPT", "552 5.2.2 mailbox full", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "552 5.2.2"}},
	{"RCPT", "554 5.7.1 relay access denied", outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "554 5.7.1"}},
	{"RCPT", "354 what?", outcome{Class: delivery.Permanent, Reason: delivery.ReasonUnexpectedStatus, Code: "354"}},
	{"RCPT", "no number", outcome{Class: delivery.Transient, Reason: delivery.ReasonMalformedAnswer}},
	{"DATA", "451 4.3.0 not now", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "451 4.3.0"}},
	{"DATA", "554 5.5.1 no valid recipients", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "554 5.5.1"}},
	{"DATA", "250 sent", outcome{Class: delivery.Permanent, Reason: delivery.ReasonUnexpectedStatus, Code: "250"}},
	{".", "451 4.3.0 not now", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "451 4.3.0"}},
	{".", "421 4.3.2 going down", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "421 4.3.2"}},
	{".", "552 5.3.4 too big", outcome{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge, Code: "552 5.3.4"}},
	{".", "550 5.2.3 too big", outcome{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge, Code: "550 5.2.3"}},
	{".", "554 5.7.1 spam", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "554 5.7.1"}},
	{".", "550 5.7.1 spam", outcome{Class: delivery.Permanent, Reason: delivery.ReasonRejected, Code: "550 5.7.1"}},
	{".", "354 go on", outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "354", Maybe: true}},
	{".", "thanks", outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Maybe: true}},
	{".", standin.Drop, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true}},
	{".", "251 fine, too", outcome{}},
	{"QUIT", "554 no", outcome{}},
	{"QUIT", standin.Drop, outcome{}},
}

func TestEveryAnswerOfAMailServerHasAClass(t *testing.T) {
	ca := newAuthority(t)
	config := ca.serverConfig(t, nil)
	for _, c := range smtpCases {
		t.Run(c.step+" "+c.answer, func(t *testing.T) {
			t.Parallel()
			server := standin.NewSMTP(t, standin.SMTPOptions{TLS: config, Username: "robot@example.com", Password: "right password"})
			server.Answer(c.step, c.answer)
			e := newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), delivery.EmailPlain, "right password"))
			receipt, err := e.Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if err != nil && c.want.Code != "" && !strings.Contains(err.Error(), c.want.Code) {
				t.Errorf("%q does not say the code", err)
			}
			if receipt.Digest == "" || (receipt.ExternalID != "") != (err == nil) {
				t.Errorf("receipt %+v", receipt)
			}
			if want := map[bool]int{false: 0, true: 1}[err == nil || c.answer == standin.Drop]; len(server.Mails()) != want {
				t.Errorf("%d mails were taken, want %d", len(server.Mails()), want)
			}
		})
	}
}

func TestAServerThatGoesOrSaysNothingIsToldApartByWhatItHas(t *testing.T) {
	ca := newAuthority(t)
	config := ca.serverConfig(t, nil)
	for _, step := range []string{"greeting", "EHLO", "STARTTLS", "TLS", "AUTH", "MAIL", "RCPT", "DATA", ".", "QUIT"} {
		for how, want := range map[string]outcome{
			standin.Drop:  {Class: delivery.Transient, Reason: delivery.ReasonConnectionReset},
			standin.Stall: {Class: delivery.Transient, Reason: delivery.ReasonTimeout},
		} {
			switch {
			case step == "." && how == standin.Drop:
				want = outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true}
			case step == ".":
				want = outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonTimeout, Maybe: true}
			case step == "QUIT":
				want = outcome{}
			}
			t.Run(how+" at "+step, func(t *testing.T) {
				t.Parallel()
				server := standin.NewSMTP(t, standin.SMTPOptions{TLS: config, Username: "robot@example.com", Password: "right password"})
				server.Answer(step, how)
				c := withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), delivery.EmailPlain, "right password")
				c.Timeout = time.Second
				most := 3 * time.Second
				switch step { // it has to come so far
				case ".":
					c.Timeout, most = 5*time.Second, 7*time.Second
				case "QUIT":
					c.Timeout, most = 30*time.Second, 15*time.Second
				}
				start := time.Now()
				_, err := newEmail(t, c).Send(t.Context(), sendertest.Message())
				checkOutcome(t, err, want)
				if took := time.Since(start); took > most {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}

func TestAServerThatNeverEndsItsAnswerIsLeft(t *testing.T) {
	server := standin.NewSMTP(t, standin.SMTPOptions{})
	server.Answer("EHLO", strings.Repeat("250-X\r\n", 1<<18)+"250 X")
	_, err := newEmail(t, mailbox(server, delivery.EmailNone, nil)).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonConnectionReset})
}

func TestCallerThatGivesUpOnAMailAfterItsEndLeavesDoubt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	raw := serveRaw(t, func(_ *rawServer, conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "220 a\r\n250 a\r\n250 a\r\n250 a\r\n250 a\r\n250 a\r\n354 a\r\n")
		var said []byte
		for some := make([]byte, 4096); !bytes.HasSuffix(said, []byte("\r\n.\r\n")); {
			n, err := conn.Read(some)
			if err != nil {
				return
			}
			said = append(said, some[:n]...)
		}
		cancel()
		untilClosed(conn)
	})
	to, err := net.ResolveTCPAddr("tcp", raw.address)
	if err != nil {
		t.Fatal(err)
	}
	e := newEmail(t, mailbox(&standin.SMTP{Host: "127.0.0.1", Port: int32(to.Port)}, delivery.EmailNone, nil))
	_, err = e.Send(ctx, sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonCancelled, Maybe: true})
}

func TestNobodyIsSentAMailThatOneRecipientIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]string
		want    outcome
		message string
	}{
		"one of them": {
			map[string]string{"RCPT on-call@example.org": "550 5.1.1 <On-Call@example.org>: unknown"},
			outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "550 5.1.1"},
			"refused o***@example.org, so that nobody was sent anything: 550 5.1.1: <O***@example.org>: unknown",
		},
		"for now, and for ever": {
			map[string]string{"RCPT ops@example.com": "450 4.2.0 later", "RCPT archive@example.com": "550 5.1.1 gone"},
			outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "550 5.1.1"},
			"refused a***@example.com and 1 more of 3 recipients, so that nobody was sent anything: 550 5.1.1: gone",
		},
		"for now, and until it is mended": {
			map[string]string{"RCPT ops@example.com": "450 4.2.0 later", "RCPT archive@example.com": "554 5.7.1 no relay"},
			outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "554 5.7.1"},
			"refused a***@example.com and 1 more of 3 recipients",
		},
		"and it goes": {
			map[string]string{"RCPT ops@example.com": "421 4.3.2 down"},
			outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "421 4.3.2"},
			"refused o***@example.com,",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := standin.NewSMTP(t, standin.SMTPOptions{})
			for step, answer := range c.answers {
				server.Answer(step, answer)
			}
			e := newEmail(t, mailbox(server, delivery.EmailNone, nil))
			_, err := e.Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("got %v\nwant it to have %s", err, c.message)
			}
			if len(server.Mails()) != 0 || slices.Contains(server.Asked(), "DATA") {
				t.Errorf("%d mails were taken, after %q", len(server.Mails()), server.Asked())
			}
			if _, err := e.Send(t.Context(), sendertest.Message()); err != nil || len(server.Mails()[0].To) != 3 {
				t.Errorf("afterwards: %v, %+v", err, server.Mails())
			}
		})
	}
}

func TestReceiptIsTheServersNameForAMail(t *testing.T) {
	server := standin.NewSMTP(t, standin.SMTPOptions{})
	e := newEmail(t, mailbox(server, delivery.EmailNone, nil))
	for answer, want := range map[string]string{
		"250 2.0.0 Ok: queued as 4ZbC1x2Qz9":                                        "4ZbC1x2Qz9",
		"250 OK id=10HmaX-000000005vi-0000":                                         "10HmaX-000000005vi-0000",
		"250 2.0.0 4ALDc9fB012345 Message accepted for delivery":                    "4ALDc9fB012345",
		"250 2.6.0 <x@example.com> [InternalId=42, Hostname=a.b] Queued mail for d": "42",
		"250 2.0.0 OK  1763900000 5b1f17b1804b1-4779fe3b9easm1234.5 - gsmtp":        "5b1f17b1804b1-4779fe3b9easm1234.5",
		"250 Ok 0100018f0c5b2a3e-6e2a1d1c-1111-2222-3333-444455556666-000000":       "0100018f0c5b2a3e-6e2a1d1c-1111-2222-3333-444455556666-000000",
		"250-2.0.0 one line\r\n250 2.0.0 Ok: queued as ABC":                         "ABC",
		"250 Ok":                            "<0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11@example.com>",
		"250 2.0.0 Ok: queued as \x1b<img>": "<0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11@example.com>",
	} {
		server.Answer(".", answer)
		receipt, err := e.Send(t.Context(), fixedMessage())
		if err != nil || receipt.ExternalID != want {
			t.Errorf("%q: external ID %q, want %q, error %v", answer, receipt.ExternalID, want, err)
		}
	}
}

func TestAMailTooLargeIsNotBegun(t *testing.T) {
	server := standin.NewSMTP(t, standin.SMTPOptions{Size: 1000})
	_, err := newEmail(t, mailbox(server, delivery.EmailNone, nil)).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge})
	if got := server.Asked(); len(got) != 2 || got[1] != "QUIT" {
		t.Errorf("asked %q, want EHLO and QUIT", got)
	}
}

func TestPasswordsAreProvedAndNeverSentInTheClear(t *testing.T) {
	ca := newAuthority(t)
	for _, mechanism := range []string{delivery.EmailPlain, delivery.EmailLogin, delivery.EmailXOAUTH2} {
		t.Run(mechanism, func(t *testing.T) {
			server := standin.NewSMTP(t, standin.SMTPOptions{TLS: ca.serverConfig(t, nil), Username: "robot@example.com", Password: "right password"})
			_, err := newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), mechanism, "wrong password")).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "535 5.7.8"})
			server.SetPassword("wrong password")
			if _, err := newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), mechanism, "wrong password")).Send(t.Context(), sendertest.Message()); err != nil {
				t.Errorf("with the password: %v", err)
			}

			// A server, or somebody before it, that offers no encryption.
			server.Answer("EHLO", "250-mail.example.com\r\n250 AUTH PLAIN LOGIN XOAUTH2")
			before := len(server.Asked())
			_, err = newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), mechanism, "wrong password")).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonTLSFailed})
			if got := server.Asked()[before:]; len(got) != 2 || got[1] != "QUIT" {
				t.Errorf("asked %q, want EHLO and QUIT", got)
			}
		})
	}
	t.Run("a mechanism that is not offered", func(t *testing.T) {
		server := standin.NewSMTP(t, standin.SMTPOptions{TLS: ca.serverConfig(t, nil), Implicit: true})
		server.Answer("EHLO", "250-mail.example.com\r\n250 AUTH LOGIN")
		_, err := newEmail(t, withAuth(mailbox(server, delivery.EmailTLS, ca.pem), delivery.EmailPlain, "password")).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized})
		if want := `the server does not offer the mechanism Plain: it offers "LOGIN"`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestWhatIsSaidBeforeTLSIsForgotten(t *testing.T) {
	ca := newAuthority(t)
	server := standin.NewSMTP(t, standin.SMTPOptions{TLS: ca.serverConfig(t, nil)})
	// The second line would be the answer to the EHLO that follows.
	server.Answer("STARTTLS", "220 go on\r\n250 AUTH PLAIN LOGIN")
	_, err := newEmail(t, withAuth(mailbox(server, delivery.EmailStartTLS, ca.pem), delivery.EmailPlain, "password")).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized})
}

func TestCertificatesOfMailServersAreChecked(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	clientCert, clientKey := ca.issue(t, nil)
	mutual := ca.serverConfig(t, nil)
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	mutual.ClientCAs.AddCert(ca.cert)
	config := func(reason string) outcome { return outcome{Class: delivery.Config, Reason: reason} }
	for name, c := range map[string]struct {
		server    *tls.Config
		ca        []byte
		cert, key []byte
		want      outcome
	}{
		"the channel's authority": {server: ca.serverConfig(t, nil), ca: ca.pem},
		"the system's":            {server: ca.serverConfig(t, nil), want: config(delivery.ReasonUnknownAuthority)},
		"another":                 {server: ca.serverConfig(t, nil), ca: other.pem, want: config(delivery.ReasonUnknownAuthority)},
		"expired":                 {server: ca.serverConfig(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), ca: ca.pem, want: config(delivery.ReasonCertificateInvalid)},
		"another host":            {server: ca.serverConfig(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }), ca: ca.pem, want: config(delivery.ReasonCertificateInvalid)},
		"a client's certificate":  {server: mutual, ca: ca.pem, cert: clientCert, key: clientKey},
		"no client's certificate": {server: mutual, ca: ca.pem, want: config(delivery.ReasonTLSRefused)},
	} {
		for _, encryption := range []string{delivery.EmailStartTLS, delivery.EmailTLS} {
			t.Run(name+" "+encryption, func(t *testing.T) {
				server := standin.NewSMTP(t, standin.SMTPOptions{TLS: c.server, Implicit: encryption == delivery.EmailTLS})
				m := mailbox(server, encryption, c.ca)
				m.Cert, m.Key = c.cert, c.key
				_, err := newEmail(t, m).Send(t.Context(), sendertest.Message())
				checkOutcome(t, err, c.want)
				if len(server.Mails()) != map[bool]int{true: 1}[err == nil] {
					t.Errorf("%d mails were taken", len(server.Mails()))
				}
			})
		}
	}
	for _, encryption := range []string{delivery.EmailTLS, delivery.EmailStartTLS, ""} {
		t.Run("no TLS where it is expected: "+encryption, func(t *testing.T) {
			server := standin.NewSMTP(t, standin.SMTPOptions{})
			_, err := newEmail(t, mailbox(server, encryption, nil)).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, config(delivery.ReasonTLSFailed))
		})
	}
}

func TestMailServersAreOnlyReachedWhereChannelsMay(t *testing.T) {
	server := standin.NewSMTP(t, standin.SMTPOptions{})
	for name, c := range map[string]struct {
		host, encryption string
		want             string
	}{
		"loopback":                   {"127.0.0.1", delivery.EmailTLS, delivery.ReasonAddressNotAllowed},
		"a name for loopback":        {"localhost", delivery.EmailStartTLS, delivery.ReasonAddressNotAllowed},
		"metadata":                   {"169.254.169.254", delivery.EmailStartTLS, delivery.ReasonAddressNotAllowed},
		"public, without encryption": {"1.1.1.1", delivery.EmailNone, delivery.ReasonPlainText},
	} {
		t.Run(name, func(t *testing.T) {
			m := mailbox(server, c.encryption, nil)
			m.Host = c.host
			_, err := delivery.NewEmail(newHTTP(t), m)
			checkOutcome(t, err, outcome{Class: delivery.Config, Reason: c.want})
			if err == nil || !strings.Contains(err.Error(), "--delivery-allow-networks") {
				t.Errorf("%v does not say how to allow it", err)
			}
		})
	}
	if got := server.Asked(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
}

func TestEmailRefusesAConfigurationThatCannotWork(t *testing.T) {
	for want, change := range map[string]func(*delivery.EmailConfig){
		"host has to be a name or an IP address": func(c *delivery.EmailConfig) { c.Host = "2130706433" },
		"to is empty":                            func(c *delivery.EmailConfig) { c.To = nil },
		"an address is not one such as ops@example.com: correct from, to and cc":                       func(c *delivery.EmailConfig) { c.Cc = []string{"a@b.c>\r\nRCPT TO:<d@e.f"} },
		"replyTo is not an address such as ops@example.com":                                            func(c *delivery.EmailConfig) { c.ReplyTo = "Ops <ops@example.com>" },
		"a password is not sent without encryption: remove auth, or set encryption to StartTLS or TLS": func(c *delivery.EmailConfig) { *c = withAuth(*c, "Plain", plantedPassword) },
		"password is empty": func(c *delivery.EmailConfig) { *c = withAuth(*c, "Plain", ""); c.Encryption = "TLS" },
		"username or password has a control character, such as a line break": func(c *delivery.EmailConfig) { *c = withAuth(*c, "Plain", plantedPassword+"\nx"); c.Encryption = "TLS" },
		"mechanism has to be Plain, Login or XOAUTH2":                        func(c *delivery.EmailConfig) { *c = withAuth(*c, "NTLM", plantedPassword); c.Encryption = "TLS" },
		"CA holds no certificate: PEM is expected":                           func(c *delivery.EmailConfig) { c.CA = []byte(plantedPassword) },
	} {
		t.Run(want, func(t *testing.T) {
			c := mailbox(&standin.SMTP{Host: "mail.example.com", Port: 587}, delivery.EmailNone, nil)
			change(&c)
			_, err := delivery.NewEmail(newHTTP(t), c)
			if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Message != want {
				t.Errorf("got %v, want %s", err, want)
			}
			sendertest.CheckSecrets(t, err, plantedEmailSecrets)
			if printed := fmt.Sprintf("%v %+v %#v", c, c, &c); strings.Contains(printed, plantedPassword) {
				t.Errorf("printed as %s", printed)
			}
		})
	}
}

func TestMailsAreWhatTheyWere(t *testing.T) {
	server := standin.NewSMTP(t, standin.SMTPOptions{})
	e := newEmail(t, mailbox(server, delivery.EmailNone, nil))
	for name, m := range goldenMessages() {
		t.Run(name, func(t *testing.T) {
			before := len(server.Mails())
			if _, err := e.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			// Git leaves no CR alone in a text.
			got := strings.ReplaceAll(string(server.Mails()[before].Content), "\r\n", "\n")
			path := filepath.Join("testdata", "email", name+".eml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("want (-) and got (+):\n%s", diff)
			}
		})
	}
}
