package delivery

import (
	"bytes"
	"context"
	"errors"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// testMail returns a sender that is configured without a server.
func testMail(t testing.TB) *Email {
	t.Helper()
	e, err := NewEmail(NewHTTP(HTTPOptions{}), EmailConfig{
		Host: "mail.example.com", Port: 587, Encryption: EmailStartTLS, Mechanism: EmailPlain, Username: "robot", Password: "pass word long",
		From: "notifications@example.com", To: []string{"ops@example.com"}, Cc: []string{"archive@example.com"}, ReplyTo: "help@example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// mailHeaders are all that a mail can have, in their order.
var mailHeaders = []string{
	"Date", "Message-ID", "References", "From", "To", "Cc", "Reply-To", "Subject", "X-Priority", "Importance",
	"Auto-Submitted", "MIME-Version", "Content-Type",
}

// mailHTML is all that stands between < and > in a mail.
var mailHTML = regexp.MustCompile(`<!DOCTYPE html>|<meta charset="utf-8">|</?(?:html|head|title|body|h2|p|pre|blockquote|b|i|s|code|table|tr|td|small)>` +
	`|<(?:p|pre) style="[a-z0-9 .:;-]+">|<th align="left" valign="top">|</th>|<br>|<hr>|<a href="(?:https?://|mailto:)[^"'<>\s]*">|</a>`)

// Whatever a message says, it is a mail with the headers that were meant, of a text
// and of HTML in which nothing runs, is loaded, or leads where nobody should go.
func FuzzMail(f *testing.F) {
	for _, body := range []string{
		"", "plain", "**bold** _it_ ~~no~~ `code` [a](https://b.example) ![i](https://c.example/i.png)", "<script>alert(1)</script><img src=x onerror=y>",
		"[x](javascript:alert(1)) [y](data:text/html,z) [z](https://a.example/\"onclick=\"b) <https://a.example/'x>", "\r\n.\r\nQUIT\r\nBcc: a@b.c\r\n\r\n--=_alternative--",
		"=?utf-8?B?DQpCY2M6IGFAYi5jDQo=?=", "```\n<b>\n```\n> q\n> > r\n\n1. a\n   - b\n\n     ```x\n     y\n     ```", "&lt;script&gt; &#60;b&#62; &amp;lt;",
		strings.Repeat("\U0001F469\u200d\U0001F692", 300), strings.Repeat("> ", 100) + "x", strings.Repeat("- ", 100), "a\x00b\u202ec\xff\u2028d\x1b[31m",
		strings.Repeat("x", 3000), strings.Repeat("é ", 500), "\n\n\n", "\t", ".", "--=_alternative",
	} {
		for _, markup := range []bool{true, false} {
			f.Add("subject "+body, body, "label", "https://runbook.example/?a=1&b=<2>|3\"'", "value "+body, markup)
		}
	}
	e := testMail(f)
	f.Fuzz(func(t *testing.T, subject, body, label, address, value string, markup bool) {
		m := &Message{
			Key: "0b8e3c52-6f0c", Namespace: value, Name: label, Created: time.Unix(1e9, 0), Subject: subject, Body: body,
			Priority: value, Severity: label, Type: body, CorrelationID: value, Regarding: &Reference{Kind: body, Name: value},
			Links:  []Link{{Label: label, URL: address}, {Label: address, URL: "https://second.example/" + label}, {URL: value}},
			Fields: map[string]string{label: value, "n": body},
		}
		if markup {
			m.BodyFormat = "Markdown"
		}
		start := time.Now()
		content := e.encode(m)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		if !bytes.Equal(e.encode(m), content) {
			t.Error("the same message gives other bytes")
		}
		checkMailLines(t, content)
		got, err := mail.ReadMessage(bytes.NewReader(content))
		if err != nil {
			t.Fatalf("read mail: %v", err)
		}
		checkMailHeader(t, m, got.Header)
		_, parameters, err := mime.ParseMediaType(got.Header.Get("Content-Type"))
		if err != nil {
			t.Fatalf("read content type: %v", err)
		}
		parts := multipart.NewReader(got.Body, parameters["boundary"])
		for _, want := range []struct{ kind, text string }{{"text/plain; charset=utf-8", emailText(m)}, {"text/html; charset=utf-8", emailHTML(m)}} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatalf("read part: %v", err)
			}
			text, err := io.ReadAll(part)
			if err != nil || part.Header.Get("Content-Type") != want.kind {
				t.Fatalf("a part of the type %q: %v", part.Header.Get("Content-Type"), err)
			}
			if got := strings.ReplaceAll(string(text), "\r\n", "\n"); got != want.text {
				t.Errorf("part of the type %s:\n got %q\nwant %q", want.kind, got, want.text)
			}
			if !utf8.Valid(text) || strings.ContainsFunc(string(text), func(r rune) bool { return hidden(r) && !strings.ContainsRune("\r\n\t", r) }) {
				t.Errorf("hidden characters in %q", text)
			}
			if strings.HasPrefix(want.kind, "text/html") {
				checkMailHTML(t, want.text)
			}
		}
		if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
			t.Errorf("a third part, error %v", err)
		}
	})
}

func checkMailLines(t *testing.T, content []byte) {
	t.Helper()
	if !bytes.HasSuffix(content, []byte("\r\n")) {
		t.Errorf("it ends in %q", content[max(0, len(content)-20):])
	}
	for line := range bytes.Lines(content) {
		// 998 and the line end (RFC 5322, section 2.1.1).
		if text, ok := bytes.CutSuffix(line, []byte("\r\n")); !ok || len(line) > 1000 || bytes.ContainsFunc(text, func(r rune) bool {
			return r < ' ' && r != '\t' || r > '~'
		}) {
			t.Fatalf("line of %d bytes: %.100q", len(line), line)
		}
	}
}

func checkMailHeader(t *testing.T, m *Message, header mail.Header) {
	t.Helper()
	for name, values := range header {
		known := func(h string) bool { return textproto.CanonicalMIMEHeaderKey(h) == name }
		if !slices.ContainsFunc(mailHeaders, known) || len(values) != 1 {
			t.Errorf("header %s: %q", name, values)
		}
	}
	for name, want := range map[string]string{
		"From": "notifications@example.com", "To": "ops@example.com", "Cc": "archive@example.com", "Reply-To": "help@example.com",
		"Message-ID": "<0b8e3c52-6f0c@example.com>", "Date": "Sun, 09 Sep 2001 01:46:40 +0000", "Auto-Submitted": "auto-generated",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("header %s: %q, want %q", name, got, want)
		}
	}
	if got, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject")); err != nil || got != emailSubject(m) {
		t.Errorf("subject %q, want %q, error %v", got, emailSubject(m), err)
	}
}

func checkMailHTML(t *testing.T, text string) {
	t.Helper()
	for _, tag := range mailHTML.FindAllString(text, -1) {
		if address, ok := strings.CutPrefix(tag, `<a href="`); ok {
			address = html.UnescapeString(strings.TrimSuffix(address, `">`))
			if safeURL(address) == "" {
				t.Errorf("it leads to %q", address)
			}
		}
	}
	rest := mailHTML.ReplaceAllString(text, "")
	rest = strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "", "&#34;", "", "&#39;", "", "&bull;", "").Replace(rest)
	if strings.ContainsAny(rest, `<>&"'`) {
		t.Errorf("markup is left: %.300q", rest)
	}
}

// Whatever a mail server or somebody in its place says, the attempt is a success or
// an error that is fit to be shown.
func FuzzMailServer(f *testing.F) {
	const taken = "220 a ESMTP\r\n250-a\r\n250-SIZE 1000000\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
	for _, answers := range []string{
		"", taken + "250 2.0.0 Ok: queued as ABC\r\n221 bye\r\n", taken + "250 id=cGFzcyB3b3JkIGxvbmc=\r\n", taken, taken + "354 more\r\n",
		taken + "552 5.3.4 pass word long\r\n", taken + "451-4.3.0 pass\r\n451 4.3.0 word long\r\n", "554 5.7.1 pass  word\tlong\r\n", "220-\r\n220-\r\n",
		"220 a\r\n250-a\r\n250 AUTH LOGIN pass word long\r\n", "220 a\r\n250 a\r\n", "220 a\r\n250-a\r\n250 AUTH PLAIN\r\n535 5.7.8 AHJvYm90AHBhc3Mgd29yZCBsb25n\r\n",
		"220 a\r\n250-a\r\n250 SIZE 1\r\n", "220 a\r\n250-a\r\n250 AUTH PLAIN\r\n334 \r\n235 ok\r\n", "999 x\r\n", "-20 x\r\n", "22", "\x00\xff\r\n", "200 \x1b[31m\r\n",
		"220 a\r\n250-a\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n550 5.1.1 <ops@example.com> no\r\n550 x@y.z\r\n",
	} {
		f.Add([]byte(answers))
	}
	e := testMail(f)
	e.config.Encryption = EmailNone
	f.Fuzz(func(t *testing.T, answers []byte) {
		written := make(chan struct{})
		sender := *e
		sender.dial = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			go func() {
				defer close(written)
				defer server.Close()
				_, _ = server.Write(answers)
			}()
			return client, nil
		}
		receipt, err := sender.Send(t.Context(), &Message{Key: "key", Subject: "s", Body: "b"})
		<-written
		checkShown(t, receipt.ExternalID)
		if err == nil {
			if receipt.ExternalID == "" {
				t.Error("no receipt")
			}
			return
		}
		checkError(t, err)
		if receipt.ExternalID != "" || receipt.Digest == "" {
			t.Errorf("receipt %+v with the error %v", receipt, err)
		}
		if strings.Contains(err.Error(), "ops@") || strings.Contains(err.Error(), "archive@") {
			t.Errorf("a recipient is in %q", err)
		}
	})
}
