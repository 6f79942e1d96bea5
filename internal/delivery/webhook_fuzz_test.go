package delivery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// fuzzSecrets are the parts of the fuzzed webhook's configuration that its
// receiver knows and nobody else may learn.
var fuzzSecrets = []string{"pathSecret1", "querySecret2", "pass word long", "headerSecret4", "signingSecret5", fuzzRoutingKey}

const fuzzRoutingKey = "routingSecret6routingSecret6rout"

// Whatever a receiver sends back, the attempt is a success or an error of a known
// class, what may be shown of it is fit to be shown, and a success that can be read
// is one.
func FuzzWebhookAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, answer []byte) {
		h := NewHTTP(HTTPOptions{})
		defer h.Close()
		webhook, err := NewWebhook(h, WebhookConfig{
			Endpoint: Endpoint{
				URL:     "http://user:pass%20word%20long@receiver.example/hooks/pathSecret1?token=querySecret2",
				Headers: map[string]string{"X-Api-Key": "headerSecret4"},
			},
			SigningSecret: []byte("signingSecret5"),
		})
		if err != nil {
			t.Fatal(err)
		}
		receiver := answered(webhook.client, answer)
		receipt, err := webhook.Send(t.Context(), &Message{Key: "key"})
		<-receiver
		checkShown(t, receipt.ExternalID)
		resp, readErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), &http.Request{Method: http.MethodPost})
		if readErr == nil {
			defer resp.Body.Close()
		}
		if err == nil {
			return
		}
		if readErr == nil && resp.StatusCode/100 == 2 && len(answer) < maxAnswerHeader {
			t.Errorf("status %d became %v", resp.StatusCode, err)
		}
		checkError(t, err)
	})
}

// Whatever a message says, its receiver can read it, and it is the same each time.
func FuzzWebhookFormats(f *testing.F) {
	for _, text := range []string{
		"", "plain", "node.name", "9lives", "__name__", "alertname", "severity", "\u4e16\u754c", "a\x00b\u202ec\xff\u2028d\ufffe", `"{}"`, "a/b?c#d%zz",
	} {
		f.Add(text, "value", "https://runbook.example/?a=1", false)
		f.Add("node", text, text, true)
	}
	f.Fuzz(func(t *testing.T, name, value, address string, ended bool) {
		m := &Message{
			Key: "key", Namespace: value, Name: name, Subject: value, Body: value, Type: name, Priority: value, Severity: value, CorrelationID: name,
			Links: []Link{{Label: name, URL: address}}, Fields: map[string]string{name: value, "node": name, "node_2": "x", value: name},
		}
		if ended {
			m.Type = completion
		}
		for _, format := range []WebhookFormat{FormatJSON, FormatAlertmanager, FormatCloudEvents} {
			_, content := format.encode(m)
			if !utf8.Valid(content) || !json.Valid(content) {
				t.Errorf("%s: not JSON in UTF-8: %q", format, content)
			}
			if _, again := format.encode(m); !bytes.Equal(again, content) {
				t.Errorf("%s: the same message gives other bytes", format)
			}
		}
		group := alertmanagerOf(m)
		for label, value := range group.Alerts[0].Labels {
			if !validLabel.MatchString(label) || value == "" {
				t.Errorf("label %q with the value %q", label, value)
			}
		}
		if a := group.Alerts[0]; a.Labels["alertname"] == "" || len(a.Fingerprint) != 16 || (a.Status == "resolved") != ended {
			t.Errorf("alert %+v", a)
		}
		if event := cloudEventOf(m); !validAttribute.MatchString(event.ID) || !validAttribute.MatchString(event.Source) ||
			!validAttribute.MatchString(event.Type) || event.Subject != "" && !validAttribute.MatchString(event.Subject) {
			t.Errorf("event %+v", event)
		}
	})
}

var (
	validLabel     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)
	validAttribute = regexp.MustCompile(`^[!-~]+$`)
)

// answered has the client's next request answered with these bytes. The channel is
// closed when the other side has gone.
func answered(c *Client, answer []byte) <-chan struct{} {
	gone := make(chan struct{})
	c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer close(gone)
			defer server.Close()
			if request, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
				_, _ = io.Copy(io.Discard, request.Body)
				_, _ = server.Write(answer)
			}
		}()
		return &countedConn{Conn: client}, nil
	}
	return gone
}

func checkError(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*Error) //nolint:errorlint // Send promises nothing less
	if !ok {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	switch e.Class {
	case Transient, Permanent, Config:
	case Ambiguous:
		if !e.MaybeDelivered {
			t.Errorf("ambiguous and not delivered: %+v", e)
		}
	default:
		t.Errorf("the class is %q: %v", e.Class, e)
	}
	if e.Reason == "" || e.Message == "" || strings.ContainsFunc(e.Reason+e.Code, func(r rune) bool {
		return r > unicode.MaxASCII || !strings.ContainsRune("_ .", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		t.Errorf("the reason is %q, the code %q, the message %q", e.Reason, e.Code, e.Message)
	}
	if e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
		t.Errorf("retry after %s", e.RetryAfter)
	}
	checkShown(t, e.Message)
	checkShown(t, e.Error())
	if e.Err != nil {
		checkShown(t, fmt.Sprintf("%+v", e.Err))
	}
}

// checkAnswered has a sender make an attempt that meets the answer, and returns the
// error that it comes to, nil for a success.
func checkAnswered(t *testing.T, c *Client, sender Sender, m *Message, answer []byte) *Error {
	t.Helper()
	receiver := answered(c, answer)
	receipt, err := sender.Send(t.Context(), m)
	<-receiver
	checkShown(t, receipt.ExternalID)
	if err == nil {
		return nil
	}
	checkError(t, err)
	if receipt.ExternalID != "" {
		t.Errorf("a receipt with the error %v", err)
	}
	return Classify(err)
}

// fuzzTexts has a fuzz test of messages begin with each of the texts, as a body with
// markup and as one without.
func fuzzTexts(f *testing.F, bodies ...string) {
	f.Helper()
	for _, body := range bodies {
		for _, markup := range []bool{true, false} {
			f.Add("subject "+body, body, "label", "https://runbook.example/?a=1&b=<2>|3", "value "+body, markup)
		}
	}
}

// fuzzMessage is the message of a fuzz test.
func fuzzMessage(subject, body, label, address, value string, markup bool) *Message {
	m := &Message{
		Key: "key", Namespace: "payments", Name: "disk-full", Subject: subject, Body: body, Priority: value, Severity: label,
		Links:  []Link{{Label: label, URL: address}, {Label: address, URL: "https://second.example/" + label}},
		Fields: map[string]string{label: value, "n": body, "": ""},
	}
	if markup {
		m.BodyFormat = "Markdown"
	}
	return m
}

// checkShown fails where a text is not one short line without secrets, neither in
// it nor in what its escapes stand for.
func checkShown(t *testing.T, text string) {
	t.Helper()
	if len(text) > maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("unfit to be shown: %q", text)
	}
	readings := []string{text, html.UnescapeString(text)}
	if reading, err := url.QueryUnescape(text); err == nil {
		readings = append(readings, reading)
	}
	var reading string
	if json.Unmarshal([]byte(`"`+text+`"`), &reading) == nil {
		readings = append(readings, reading)
	}
	for _, reading := range readings {
		for _, secret := range fuzzSecrets {
			if strings.Contains(strings.Join(strings.Fields(reading), " "), secret) {
				t.Errorf("%s is in %q", secret, text)
			}
		}
	}
}
