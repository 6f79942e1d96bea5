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
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// fuzzSecrets are the parts of the fuzzed webhook's configuration that its
// receiver knows and nobody else may learn.
var fuzzSecrets = []string{"pathSecret1", "querySecret2", "pass word long", "headerSecret4", "signingSecret5"}

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
		receiver := make(chan struct{})
		webhook.client.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer close(receiver)
				defer server.Close()
				if request, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					_, _ = io.Copy(io.Discard, request.Body)
					_, _ = server.Write(answer)
				}
			}()
			return &countedConn{Conn: client}, nil
		}
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
