package delivery

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever a message says, its event is one that PagerDuty takes.
func FuzzPagerDutyMessage(f *testing.F) {
	for _, body := range []string{
		"", "plain", "**bold** [a](https://b.example)\n\n1. a\n   - b\n\n     ```x\n     y\n     ```", "> q\n> > r", "a\x00b\u202ec\xff\u2028d",
		strings.Repeat("\"", 40000), strings.Repeat("\U0001F469\u200d\U0001F692", 9000), strings.Repeat("> ", 200) + "x", strings.Repeat("- ", 100),
	} {
		f.Add("subject "+body, body, "label", "https://runbook.example/?a=1&b=<2>|3", "value "+body, true, false)
		f.Add("subject "+body, body, "label", "no address", "value "+body, false, true)
	}
	f.Fuzz(func(t *testing.T, subject, body, label, address, value string, markup, correlated bool) {
		m := &Message{
			Key: "key", Namespace: "payments", Name: label, Subject: subject, Body: body, Type: value, Priority: label, Severity: value,
			CorrelationID: value, Regarding: &Reference{Kind: value}, Created: time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC),
			Links:  []Link{{Label: label, URL: address}, {Label: address, URL: "https://second.example/" + label}},
			Fields: map[string]string{label: value, "n": body},
		}
		if markup {
			m.BodyFormat = "Markdown"
		}
		c := &PagerDutyConfig{RoutingKey: "routingKey", Source: subject, Component: value, ByCorrelation: correlated}
		content := encodePagerDuty(m, c)
		if string(encodePagerDuty(m, c)) != string(content) {
			t.Error("the same message gives other bytes")
		}
		var got pagerDutyMessage
		if err := json.Unmarshal(content, &got); err != nil || !utf8.Valid(content) || len(content) > 512_000 {
			t.Fatalf("%d bytes that are not an event: %v", len(content), err)
		}
		p := got.Payload
		if strings.TrimSpace(p.Summary) == "" || units(p.Summary) > 1024 || strings.TrimSpace(p.Source) == "" ||
			!slices.Contains([]string{"critical", "error", "warning", "info"}, p.Severity) {
			t.Errorf("summary %q, source %q, severity %q", p.Summary, p.Source, p.Severity)
		}
		if got.DedupKey == "" || units(got.DedupKey) > 255 || !correlated && got.DedupKey != "key" || p.Details.ID != "key" {
			t.Errorf("dedup key %q, ID %q", got.DedupKey, p.Details.ID)
		}
		for _, l := range got.Links {
			if safeURL(l.Href) != l.Href {
				t.Errorf("a link leads to %q", l.Href)
			}
		}
		for _, text := range append(p.Details.OtherLinks, p.Summary, p.Source, p.Component, p.Details.Body, p.Details.Type, got.DedupKey) {
			if strings.ContainsFunc(text, func(r rune) bool { return hidden(r) && r != '\n' && r != '\t' }) {
				t.Errorf("hidden characters in %q", text)
			}
		}
	})
}

// Whatever PagerDuty or somebody in its place answers, the attempt is a success or
// an error that is fit to be shown.
func FuzzPagerDutyAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 202 Accepted\r\n\r\n{\"status\":\"success\",\"dedup_key\":\"key\"}", "HTTP/1.1 202 Accepted\r\n\r\n{\"status\":\"success\",\"dedup_key\":\"" + fuzzRoutingKey + "\"}",
		"HTTP/1.1 400 Bad Request\r\n\r\nInvalid routing key", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\n\r\n",
		"HTTP/1.1 400 Bad Request\r\n\r\n{\"status\":\"invalid event\",\"message\":\"no\",\"errors\":[\"" + fuzzRoutingKey + "\",\"\",\"\\u0000\"]}",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		h := NewHTTP(HTTPOptions{})
		defer h.Close()
		pagerDuty, err := NewPagerDuty(h, PagerDutyConfig{
			Endpoint: Endpoint{URL: "http://pagerduty.example/v2/enqueue"}, RoutingKey: fuzzRoutingKey,
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = checkAnswered(t, pagerDuty.client, pagerDuty, &Message{Key: "key"}, answer)
	})
}
