package standin

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// errGone ends a session.
var errGone = errors.New("the connection is over")

// smtpSession is one connection.
type smtpSession struct {
	*SMTP
	conn  net.Conn
	r     *bufio.Reader
	ended <-chan struct{}

	greeted bool
	mail    Mail
	open    bool // MAIL was taken
}

// say answers a step, as was prepared or else so.
func (c *smtpSession) say(step, answer string) error {
	if p := c.prepared(step); p != "" {
		answer = p
	}
	switch answer {
	case Drop:
		return errGone
	case Stall:
		_, _ = io.Copy(io.Discard, c.conn)
		return errGone
	}
	if _, err := io.WriteString(c.conn, answer+"\r\n"); err != nil {
		return err
	}
	if strings.HasPrefix(answer, "421") {
		return errGone
	}
	return nil
}

// took says whether an answer to a step lets what was asked have its effect.
func (c *smtpSession) took(step, answer string) (bool, error) {
	c.mu.Lock()
	if all := c.answers[step]; len(all) > 0 {
		answer = all[0]
	}
	c.mu.Unlock()
	return answer[0] == '2' || answer[0] == '3', c.say(step, answer)
}

func (c *smtpSession) line() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		_ = c.say("", "500 5.5.2 a line ends in CR and LF")
		return "", errGone
	}
	c.mu.Lock()
	c.asked = append(c.asked, line)
	c.mu.Unlock()
	return line, nil
}

// secure makes the connection one over TLS.
func (c *smtpSession) secure() error {
	if p := c.prepared("TLS"); p == Drop || p == Stall {
		if p == Stall {
			_, _ = io.Copy(io.Discard, c.conn)
		} else {
			_, _ = c.r.ReadByte()
		}
		return errGone
	}
	secure := tls.Server(c.conn, c.options.TLS)
	if err := secure.Handshake(); err != nil {
		return err
	}
	c.conn, c.r = secure, bufio.NewReader(secure)
	c.mail = Mail{Encrypted: true}
	c.greeted = false
	return nil
}

func (c *smtpSession) command(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	switch {
	case verb == "QUIT":
		_ = c.say(verb, "221 2.0.0 Bye")
		return errGone
	case verb == "EHLO":
		c.greeted = true
		return c.say(verb, c.extensions())
	case !c.greeted:
		return c.say(verb, "503 5.5.1 Error: send EHLO first")
	case verb == "STARTTLS" && c.options.TLS != nil && !c.mail.Encrypted:
		ok, err := c.took(verb, "220 2.0.0 Ready to start TLS")
		if !ok || err != nil {
			return err
		}
		return c.secure()
	case verb == "AUTH":
		return c.auth(rest)
	case verb == "MAIL":
		return c.from(rest)
	case verb == "RCPT":
		return c.to(rest)
	case verb == "DATA":
		if len(c.mail.To) == 0 {
			return c.say(verb, "503 5.5.1 Error: need RCPT command")
		}
		ok, err := c.took(verb, "354 End data with <CR><LF>.<CR><LF>")
		if !ok || err != nil {
			return err
		}
		return c.data()
	}
	return c.say(verb, "502 5.5.2 Error: command not recognized")
}

func (c *smtpSession) extensions() string {
	all := []string{"mail.example.com", "PIPELINING", fmt.Sprintf("SIZE %d", c.options.Size), "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"}
	if c.options.TLS != nil && !c.mail.Encrypted {
		all = append(all, "STARTTLS")
	}
	if c.options.Username != "" && c.mail.Encrypted {
		all = append(all, "AUTH PLAIN LOGIN XOAUTH2")
	}
	for i := range all[1:] {
		all[i] = "250-" + all[i]
	}
	all[len(all)-1] = "250 " + all[len(all)-1]
	return strings.Join(all, "\r\n")
}

// auth asks for what the mechanism has still to say, and looks at it.
func (c *smtpSession) auth(rest string) error {
	if !c.mail.Encrypted {
		return c.say("AUTH", "538 5.7.11 Encryption required for requested authentication mechanism")
	}
	decode := func(s string) string { b, _ := base64.StdEncoding.DecodeString(s); return string(b) }
	ask := func(challenge string) (string, error) {
		if err := c.say("AUTH", "334 "+challenge); err != nil {
			return "", err
		}
		line, err := c.line()
		return decode(line), err
	}
	mechanism, initial, _ := strings.Cut(rest, " ")
	c.mu.Lock()
	username, password := c.options.Username, c.password
	c.mu.Unlock()
	var right bool
	switch mechanism {
	case "PLAIN":
		right = decode(initial) == "\x00"+username+"\x00"+password
	case "LOGIN":
		user, err := ask("VXNlcm5hbWU6")
		if err != nil {
			return err
		}
		given, err := ask("UGFzc3dvcmQ6")
		if err != nil {
			return err
		}
		right = user == username && given == password
	case "XOAUTH2":
		if right = decode(initial) == "user="+username+"\x01auth=Bearer "+password+"\x01\x01"; !right {
			if _, err := ask(base64.StdEncoding.EncodeToString([]byte(`{"status":"401","schemes":"bearer"}`))); err != nil {
				return err
			}
		}
	default:
		return c.say("AUTH", "504 5.5.4 Unrecognized authentication type")
	}
	if !right {
		return c.say("AUTH", "535 5.7.8 Error: authentication failed")
	}
	ok, err := c.took("AUTH", "235 2.7.0 Authentication successful")
	if ok {
		c.mail.Username = username
	}
	return err
}

func (c *smtpSession) from(rest string) error {
	path, parameters, _ := strings.Cut(rest, " ")
	size := 0
	for parameter := range strings.FieldsSeq(parameters) {
		if n, ok := strings.CutPrefix(parameter, "SIZE="); ok {
			size, _ = strconv.Atoi(n)
		}
	}
	address, ok := address(path, "FROM:")
	switch {
	case !ok:
		return c.say("MAIL", "501 5.1.7 Bad sender address syntax")
	case c.open:
		return c.say("MAIL", "503 5.5.1 Error: nested MAIL command")
	case c.options.Username != "" && c.mail.Username == "":
		return c.say("MAIL", "530 5.7.0 Authentication required")
	case size > c.options.Size:
		return c.say("MAIL", "552 5.3.4 Message size exceeds fixed limit")
	}
	took, err := c.took("MAIL", "250 2.1.0 Ok")
	c.open, c.mail.From = took, address
	return err
}

func (c *smtpSession) to(rest string) error {
	address, ok := address(rest, "TO:")
	step := "RCPT"
	c.mu.Lock()
	if len(c.answers["RCPT "+address]) > 0 {
		step = "RCPT " + address
	}
	c.mu.Unlock()
	switch {
	case !ok:
		return c.say(step, "501 5.1.3 Bad recipient address syntax")
	case !c.open:
		return c.say(step, "503 5.5.1 Error: need MAIL command")
	case len(c.mail.To) == 100: // as many as a server has to take at least
		return c.say(step, "452 4.5.3 Error: too many recipients")
	}
	took, err := c.took(step, "250 2.1.5 Ok")
	if took {
		c.mail.To = append(c.mail.To, address)
	}
	return err
}

// address reads a path without source routes.
func address(path, before string) (string, bool) {
	address, ok := strings.CutPrefix(path, before+"<")
	address, closed := strings.CutSuffix(address, ">")
	return address, ok && closed && strings.Count(address, "@") == 1 && !strings.ContainsAny(address, " <>")
}

// data reads the content, which has no other line ends than CR and LF and no line
// that is too long (RFC 5321, sections 2.3.8 and 4.5.3.1.6).
func (c *smtpSession) data() error {
	var content bytes.Buffer
	wrong := ""
	for {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return err
		}
		if string(line) == ".\r\n" {
			break
		}
		if text, ok := bytes.CutSuffix(line, []byte("\r\n")); !ok || bytes.ContainsAny(text, "\r\x00") || len(line) > 1000 {
			wrong = "550 5.6.0 a line has a bare CR or LF, a NUL, or more than 1000 bytes"
		}
		content.Write(bytes.TrimPrefix(line, []byte(".")))
	}
	if content.Len() > c.options.Size {
		wrong = "552 5.3.4 Error: message file too big"
	}
	mail := c.mail
	mail.Content = content.Bytes()
	c.open, c.mail.To = false, nil
	if wrong != "" {
		return c.say(".", wrong)
	}
	c.mu.Lock()
	answer := fmt.Sprintf("250 2.0.0 Ok: queued as 4F1C%04d", len(c.mails)+1)
	if all := c.answers["."]; len(all) > 0 {
		answer = all[0]
	}
	// The server that goes before it answers has taken the mail all the same.
	if answer[0] == '2' || answer == Drop || answer == Stall {
		c.mails = append(c.mails, mail)
	}
	c.mu.Unlock()
	return c.say(".", answer)
}
