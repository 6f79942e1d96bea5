package delivery

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"net/mail"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// EmailConfig is a mail server, what proves who we are to it, and whose mail to
// whom it is to take.
type EmailConfig struct {
	Endpoint // Timeout, CA, Cert and Key; the rest is for HTTP

	Host       string
	Port       int32
	Encryption string // EmailTLS or EmailNone; anything else is EmailStartTLS

	Mechanism string // EmailPlain, EmailLogin or EmailXOAUTH2; empty: no authentication
	Username  string
	Password  string // of EmailXOAUTH2 an access token

	From    string
	To, Cc  []string
	ReplyTo string // may be empty
}

// How a connection is encrypted, and how a client proves who it is.
const (
	EmailStartTLS = "StartTLS"
	EmailTLS      = "TLS"
	EmailNone     = "None"

	EmailPlain   = "Plain"
	EmailLogin   = "Login"
	EmailXOAUTH2 = "XOAUTH2"
)

// quitTimeout is for the farewell, which changes nothing about the message.
const quitTimeout = time.Second

// Email sends messages by SMTP, each on a connection of its own. Mail knows no
// idempotency key: what is sent twice arrives twice, with the same Message-ID, by
// which some programs show it once.
type Email struct {
	config  EmailConfig // without the password
	address string      // host and port
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	tls     *tls.Config
	mask    *masker

	// credentials are what each step of the authentication says, encoded.
	credentials []string
}

// NewEmail checks the configuration. Its error is an *Error of class Config. The
// networks that h may reach are those that mail servers may be in.
func NewEmail(h *HTTP, c EmailConfig) (*Email, error) {
	if c.Host == "" || looksNumeric(c.Host) {
		return nil, configError(ReasonInvalidURL, "host has to be a name or an IP address")
	}
	if _, err := h.checkWritten(c.Host, c.Encryption == EmailNone); err != nil {
		return nil, ofMail(Classify(err))
	}
	if len(c.To) == 0 {
		return nil, configError(ReasonInvalidHeader, "to is empty")
	}
	for _, a := range slices.Concat([]string{c.From}, c.To, c.Cc) {
		if !isAddress(a) {
			return nil, configError(ReasonInvalidHeader, "an address is not one such as ops@example.com: correct from, to and cc")
		}
	}
	if c.ReplyTo != "" && !isAddress(c.ReplyTo) {
		return nil, configError(ReasonInvalidHeader, "replyTo is not an address such as ops@example.com")
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	config, err := tlsConfig(&c.Endpoint)
	if err != nil {
		return nil, err
	}
	config.ServerName = c.Host
	e := &Email{
		address: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), tls: config, mask: newMasker(nil),
		dial: h.dialer(c.Encryption == EmailNone).DialContext,
	}
	if c.Mechanism != "" {
		if err := e.authenticateAs(c); err != nil {
			return nil, err
		}
	}
	c.Password, c.Endpoint = "", Endpoint{Timeout: c.Timeout}
	e.config = c
	return e, nil
}

func (e *Email) authenticateAs(c EmailConfig) error {
	switch {
	case c.Encryption == EmailNone:
		return configError(ReasonPlainText, "a password is not sent without encryption: remove auth, or set encryption to StartTLS or TLS")
	case c.Password == "":
		return configError(ReasonInvalidSecret, "password is empty")
	case strings.ContainsFunc(c.Password+c.Username, unicode.IsControl):
		return configError(ReasonInvalidSecret, "username or password has a control character, such as a line break")
	}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	user, password := encode(c.Username), encode(c.Password)
	plain := encode("\x00" + c.Username + "\x00" + c.Password)
	bearer := encode("user=" + c.Username + "\x01auth=Bearer " + c.Password + "\x01\x01")
	switch c.Mechanism {
	case EmailPlain:
		e.credentials = []string{"AUTH PLAIN " + plain}
	case EmailLogin:
		e.credentials = []string{"AUTH LOGIN", user, password}
	case EmailXOAUTH2:
		e.credentials = []string{"AUTH XOAUTH2 " + bearer}
	default:
		return configError(ReasonInvalidSecret, "mechanism has to be Plain, Login or XOAUTH2")
	}
	e.mask = newMasker([]string{c.Password, password, plain, bearer})
	return nil
}

// isAddress reports whether a text is an address and nothing else, which can stand
// in a header and in a command as it is.
func isAddress(text string) bool {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`<>",;:()[]\`, r) }) {
		return false
	}
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text
}

// Render implements Renderer.
func (e *Email) Render(m *Message) []byte { return e.encode(m) }

// Send sends the message once to all recipients, or to none where the server
// refuses one of them. The receipt is the server's name for the mail where its
// answer has one that is known, else the Message-ID.
func (e *Email) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := e.Render(m)
	receipt := ReceiptOf(content)
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	t := &transaction{Email: e, step: stepConnect}
	answer, err := t.run(ctx, content)
	if err != nil {
		return receipt, t.failure(ctx, err)
	}
	if receipt.ExternalID = e.mask.clean(queueID(answer)); receipt.ExternalID == "" {
		receipt.ExternalID = clean(e.messageID(m.Key))
	}
	return receipt, nil
}

// ofMail says of mail what a check says of http.
func ofMail(e *Error) *Error {
	if e.Reason == ReasonPlainHTTP {
		e.Reason, e.Message = ReasonPlainText, "mail without encryption is only for addresses in --delivery-allow-networks: set encryption to StartTLS or TLS"
	}
	return e
}

// failure classifies what ended a transaction.
func (t *transaction) failure(ctx context.Context, err error) *Error {
	if refused, ok := errors.AsType[*textproto.Error](err); ok {
		return t.refusal(refused)
	}
	e, classified := errors.AsType[*Error](err)
	if classified {
		e = ofMail(e)
	} else {
		e = causeOf(err)
		if ctx.Err() != nil {
			e = causeOf(ctx.Err())
		}
		if e.Reason == ReasonUnknown {
			e.Message = t.mask.clean(err.Error())
		}
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		e.Reason, e.Message = ReasonMalformedAnswer, "answer is not SMTP"
		if t.step == stepGreeting {
			e.Class, e.Message = Config, "the other side does not speak SMTP: correct host and port"
		}
	}
	switch {
	case t.complete:
		e.Class, e.MaybeDelivered, e.Err = Ambiguous, true, nil
		if e.Reason != ReasonTimeout && e.Reason != ReasonCancelled && e.Reason != ReasonMalformedAnswer {
			e.Reason = ReasonNoAnswer
		}
		e.Message += " after the message was written"
	case !classified && e.Class == Transient && t.step != stepConnect:
		e.Message += " at " + t.step
	}
	e.Message = clean(t.address + ": " + e.Message)
	return e
}
