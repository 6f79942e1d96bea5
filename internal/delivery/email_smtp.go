package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Steps of a transaction, as errors name them.
const (
	stepConnect  = "the connection"
	stepGreeting = "the greeting"
	stepHello    = "EHLO"
	stepStartTLS = "STARTTLS"
	stepAuth     = "AUTH"
	stepMail     = "MAIL"
	stepRcpt     = "RCPT"
	stepData     = "DATA"
	stepContent  = "the message"
)

// maxAnswers is how much of a server's answers is read, all together.
const maxAnswers = 1 << 20

// transaction is one attempt to hand a mail over. It speaks SMTP itself: net/smtp
// keeps the server's last answer to itself, asks for SMTPUTF8 wherever it can, and
// does not say how far it came.
type transaction struct {
	*Email
	text *textproto.Conn
	can  map[string]string // the server's extensions, with their parameters

	step     string
	complete bool // all of the message was written: nobody but the server knows

	refused int    // number of recipients
	worst   string // the recipient whose refusal is the error
}

// run returns the answer to the message. Each error but a server's refusal is one
// of the network.
func (t *transaction) run(ctx context.Context, content []byte) (answer string, err error) {
	conn, err := t.dial(ctx, "tcp", t.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Whatever waits for the server ends with the context.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	defer func() {
		if t.text != nil && ctx.Err() == nil {
			_ = conn.SetDeadline(time.Now().Add(quitTimeout))
			_, _ = t.ask(2, "QUIT") // what became of the message is settled
		}
	}()
	if err := t.open(ctx, conn); err != nil {
		return "", err
	}
	if err := t.authenticate(); err != nil {
		return "", err
	}
	return t.transfer(content)
}

// open greets the server, over TLS unless the channel has none.
func (t *transaction) open(ctx context.Context, conn net.Conn) error {
	if t.config.Encryption == EmailTLS {
		secure, err := t.handshake(ctx, conn)
		if err != nil {
			return err
		}
		conn = secure
	}
	t.read(conn)
	t.step = stepGreeting
	if _, _, err := t.text.ReadResponse(220); err != nil {
		return err
	}
	if err := t.hello(conn); err != nil || t.config.Encryption == EmailTLS || t.config.Encryption == EmailNone {
		return err
	}
	t.step = stepStartTLS
	if _, ok := t.can["STARTTLS"]; !ok {
		return configError(ReasonTLSFailed, "the server does not offer STARTTLS: set encryption to TLS and the port that goes with it")
	}
	if _, err := t.ask(220, "STARTTLS"); err != nil {
		return err
	}
	secure, err := t.handshake(ctx, conn)
	if err != nil {
		return err
	}
	// Nothing that was said in the clear counts from here on.
	t.read(secure)
	return t.hello(secure)
}

func (t *transaction) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	t.text = nil
	secure := tls.Client(conn, t.tls)
	return secure, secure.HandshakeContext(ctx)
}

func (t *transaction) read(conn net.Conn) {
	t.text = textproto.NewConn(struct {
		io.Reader
		io.WriteCloser
	}{io.LimitReader(conn, maxAnswers), conn})
}

// ask says a line and returns the answer, which has to have the code, or to begin
// with the digit.
func (t *transaction) ask(code int, format string, args ...any) (string, error) {
	if err := t.text.PrintfLine(format, args...); err != nil {
		return "", err
	}
	_, answer, err := t.text.ReadResponse(code)
	return answer, err
}

// hello introduces us by our address, as is right for a client that has no name in
// the DNS (RFC 5321, section 4.1.4).
func (t *transaction) hello(conn net.Conn) error {
	t.step = stepHello
	literal := "[127.0.0.1]"
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		if literal = "[" + local.IP.String() + "]"; local.IP.To4() == nil {
			literal = "[IPv6:" + local.IP.String() + "]"
		}
	}
	answer, err := t.ask(250, "EHLO %s", literal)
	if err != nil {
		return err
	}
	t.can = map[string]string{}
	_, answer, _ = strings.Cut(answer, "\n") // the server's name
	for line := range strings.SplitSeq(answer, "\n") {
		keyword, parameters, _ := strings.Cut(line, " ")
		t.can[strings.ToUpper(keyword)] = strings.ToUpper(parameters)
	}
	return nil
}

func (t *transaction) authenticate() error {
	if t.credentials == nil {
		return nil
	}
	t.step = stepAuth
	mechanism := strings.ToUpper(t.config.Mechanism)
	if offered := t.can["AUTH"]; !slices.Contains(strings.Fields(offered), mechanism) {
		return configError(ReasonUnauthorized, fmt.Sprintf("the server does not offer the mechanism %s: it offers %q", t.config.Mechanism, t.mask.clean(offered)))
	}
	for i, line := range t.credentials {
		code := 334
		if i == len(t.credentials)-1 {
			code = 235
		}
		_, err := t.ask(code, "%s", line)
		if refused, ok := errors.AsType[*textproto.Error](err); ok && refused.Code == 334 && mechanism == "XOAUTH2" {
			// The refusal follows when its explanation was acknowledged.
			_, err = t.ask(235, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// transfer hands the message over, once the server has taken all recipients.
func (t *transaction) transfer(content []byte) (string, error) {
	t.step = stepMail
	from := "MAIL FROM:<" + t.config.From + ">"
	if limit, ok := t.can["SIZE"]; ok {
		if most, err := strconv.ParseInt(limit, 10, 64); err == nil && most > 0 && int64(len(content)) > most {
			return "", &Error{
				Class: Permanent, Reason: ReasonTooLarge,
				Message: fmt.Sprintf("the message has %d bytes, the server takes %d", len(content), most),
			}
		}
		from += fmt.Sprintf(" SIZE=%d", len(content))
	}
	if _, err := t.ask(2, "%s", from); err != nil {
		return "", err
	}
	if err := t.recipients(); err != nil {
		return "", err
	}
	t.step = stepData
	if _, err := t.ask(354, "DATA"); err != nil {
		return "", err
	}
	t.step = stepContent
	body := t.text.DotWriter()
	_, err := body.Write(content)
	if err := errors.Join(err, body.Close()); err != nil {
		return "", err
	}
	t.complete = true
	_, answer, err := t.text.ReadResponse(2)
	return answer, err
}

// recipients names all of them, so that an error can tell how many are refused. It
// returns the refusal that is hardest to mend.
func (t *transaction) recipients() error {
	t.step = stepRcpt
	var worst *textproto.Error
	for _, to := range slices.Concat(t.config.To, t.config.Cc) {
		_, err := t.ask(2, "RCPT TO:<%s>", to)
		if err == nil {
			continue
		}
		refused, ok := errors.AsType[*textproto.Error](err)
		if !ok {
			return err
		}
		t.refused++
		if worst == nil || t.hardness(refused) > t.hardness(worst) {
			worst, t.worst = refused, to
		}
		if refused.Code == 421 {
			break // the server closes the connection
		}
	}
	if worst == nil {
		return nil
	}
	return worst
}

// hardness orders refusals by what it takes to get past them: time, somebody who
// changes something, or another message.
func (t *transaction) hardness(e *textproto.Error) int {
	return slices.Index([]Class{Transient, Config, Permanent}, t.meaning(e).class)
}
