package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// emailBoundary is in no part of a mail: quoted-printable has no underscore after
// an equals sign.
const emailBoundary = "=_alternative"

// maxHeaderLine is how long a line with an encoded word may be (RFC 2047, section
// 2). Others may be longer.
const maxHeaderLine = 76

// encode renders a message as a mail. The same message gives the same bytes, all
// of them ASCII in lines that end in CR and LF. Its size is bounded by what a
// request may have: the largest is a quarter of the 10,240,000 bytes that Postfix
// takes unless told otherwise.
func (e *Email) encode(m *Message) []byte {
	var out bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&out, "%s: %s\r\n", name, value) }
	if !m.Created.IsZero() {
		header("Date", m.Created.UTC().Format(time.RFC1123Z))
	}
	header("Message-ID", e.messageID(m.Key))
	if m.CorrelationID != "" {
		header("References", e.messageID(emailThread(m.CorrelationID)))
	}
	header("From", e.config.From)
	header("To", strings.Join(e.config.To, ",\r\n "))
	if len(e.config.Cc) > 0 {
		header("Cc", strings.Join(e.config.Cc, ",\r\n "))
	}
	if e.config.ReplyTo != "" {
		header("Reply-To", e.config.ReplyTo)
	}
	header("Subject", foldSubject(emailSubject(m)))
	switch m.Priority {
	case "Critical":
		header("X-Priority", "1")
		header("Importance", "high")
	case "High":
		header("X-Priority", "2")
		header("Importance", "high")
	}
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", `multipart/alternative; boundary="`+emailBoundary+`"`)
	out.WriteString("\r\n")

	// Writing into memory cannot fail.
	parts := multipart.NewWriter(&out)
	_ = parts.SetBoundary(emailBoundary)
	for _, part := range []struct{ kind, text string }{{"plain", emailText(m)}, {"html", emailHTML(m)}} {
		w, _ := parts.CreatePart(textproto.MIMEHeader{
			"Content-Type":              {"text/" + part.kind + "; charset=utf-8"},
			"Content-Transfer-Encoding": {"quoted-printable"},
		})
		quoted := quotedprintable.NewWriter(w)
		_, _ = io.WriteString(quoted, part.text)
		_ = quoted.Close()
	}
	_ = parts.Close()
	return out.Bytes()
}

// messageID is one in the domain of the sender.
func (e *Email) messageID(name string) string {
	return "<" + name + e.config.From[strings.LastIndexByte(e.config.From, '@'):] + ">"
}

// emailThread names the mail that all mails of one correlation ID refer to, so that
// programs show them together. It was never sent, which threads are made for.
func emailThread(correlationID string) string {
	sum := sha256.Sum256([]byte(correlationID))
	return "correlation-" + hex.EncodeToString(sum[:16])
}

func emailSubject(m *Message) string {
	if priority := oneLine(m.Priority); priority != "" {
		return "[" + priority + "] " + subject(m)
	}
	return subject(m)
}

// foldSubject divides a subject into the lines of its header. What is not ASCII, too
// long for a line, or would be taken for encoded is encoded as RFC 2047 has it.
func foldSubject(subject string) string {
	used := len("Subject: ")
	words := strings.Split(subject, " ")
	if strings.Contains(subject, "=?") || slices.ContainsFunc(words, func(word string) bool {
		return used+len(word) > maxHeaderLine || strings.ContainsFunc(word, func(r rune) bool { return r >= utf8.RuneSelf })
	}) {
		const most = 39 // bytes, which make a word of 64 characters
		words = nil
		for rest := subject; rest != ""; {
			part := cut(rest, most)
			words = append(words, "=?utf-8?B?"+base64.StdEncoding.EncodeToString([]byte(part))+"?=")
			rest = rest[len(part):]
		}
	}
	var b strings.Builder
	for i, word := range words {
		switch {
		case i == 0:
		case used+len(" "+word) > maxHeaderLine:
			b.WriteString("\r\n ")
			used = 1
		default:
			b.WriteString(" ")
			used++
		}
		b.WriteString(word)
		used += len(word)
	}
	return b.String()
}
