package delivery

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// slackMarkup is all that Slack may find between < and > in a formatted text.
var slackMarkup = regexp.MustCompile(`<(?:https?://|mailto:)[^<>|\s]*(?:\|[^<>]*)?>`)

// Whatever a message says, it is within Slack's limits, calls nobody, and has no
// escape that was cut in two.
func FuzzSlackMessage(f *testing.F) {
	fuzzTexts(f,
		"", "plain", "**bold** _it_ ~~no~~ `code` [a](https://b.example)", "<!channel> <@U1> <#C1> &lt;!here&gt;",
		"[x](!channel) [y](@U1|z) [z](<#C1>) ![i](!here)", "<https://a.example/<!here>> https://b.example/|<!channel>",
		"```\n<!here>\n```\n> q\n> > r\n\n1. a\n   - b\n\n     ```x\n     y\n     ```", "*a **b* c**", "&#60;!here&#62; &amp;lt;!here&amp;gt;",
		strings.Repeat("&", 4000), strings.Repeat("\U0001F469\u200d\U0001F692", 3000), strings.Repeat("> ", 200)+"x",
		strings.Repeat("- ", 100), "# "+strings.Repeat("e\u0301", 9000), strings.Repeat("`a` *b*\n", 2000), "a\x00b\u202ec\xff",
	)
	f.Add("subject", "body", "C0123456789/1503435956.000247", "https://runbook.example", "Critical", true)
	f.Add("subject", "body", "C1/\xff\"/", "https://runbook.example", "High", false)
	f.Add("subject", "body", "/", "https://runbook.example", "Low", false)
	f.Fuzz(func(t *testing.T, subject, body, label, address, value string, markup bool) {
		m := fuzzMessage(subject, body, label, address, value, markup)
		start := time.Now()
		content := encodeSlack(m, "")
		checkSlackFollowUp(t, m, label)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		if string(encodeSlack(m, "")) != string(content) {
			t.Error("the same message gives other bytes")
		}
		var got slackMessage
		if err := json.Unmarshal(content, &got); err != nil || !utf8.Valid(content) {
			t.Fatalf("content is not JSON in UTF-8: %v", err)
		}
		checkFormatted(t, got.Text)
		if n := length(got.Blocks); n > slackTotal || len(got.Blocks) > 50 {
			t.Errorf("%d characters in %d blocks", n, len(got.Blocks))
		}
		for i, b := range got.Blocks {
			checkSlackBlock(t, i, b)
		}
	})
}

// checkSlackFollowUp fails where a message that follows another has other texts, or
// goes elsewhere than it should.
func checkSlackFollowUp(t *testing.T, m *Message, receipt string) {
	t.Helper()
	var alone, reply, update slackMessage
	for _, c := range []struct {
		into     *slackMessage
		follows  string
		replaces bool
	}{{&alone, "", false}, {&reply, receipt, false}, {&update, receipt, true}} {
		m.Follows, m.Replaces = c.follows, c.replaces
		if err := json.Unmarshal(encodeSlack(m, "C1"), c.into); err != nil {
			t.Fatal(err)
		}
	}
	m.Follows, m.Replaces = "", false
	id, ts, _ := strings.Cut(strings.ToValidUTF8(receipt, "\ufffd"), "/")
	want := alone
	if ts != "" {
		want.Channel, want.ThreadTS = id, ts
		want.ReplyBroadcast = m.Priority == "High" || m.Priority == "Critical"
	}
	if diff := cmp.Diff(want, reply); diff != "" {
		t.Errorf("a reply to %q, want (-) and got (+):\n%s", receipt, diff)
	}
	if want = alone; ts != "" {
		want.Channel, want.TS, want.Parse, want.UnfurlLinks, want.UnfurlMedia = id, ts, "none", nil, nil
	}
	if diff := cmp.Diff(want, update); diff != "" {
		t.Errorf("a message in place of %q, want (-) and got (+):\n%s", receipt, diff)
	}
}

func checkSlackBlock(t *testing.T, i int, b slackBlock) {
	t.Helper()
	limit := map[string]int{"header": slackHeader, "section": slackSection, "context": slackSection}[b.Type]
	if limit == 0 || (b.BlockID != "") != (i == 0) || len(b.Fields) > 10 || len(b.Elements) > 10 || (b.Text == nil) == (b.Fields == nil && b.Elements == nil) {
		t.Errorf("block %d is not one that Slack takes: %+v", i, b)
	}
	texts := slices.Concat(b.Fields, b.Elements)
	if b.Text != nil {
		texts = append(texts, *b.Text)
	}
	for _, text := range texts {
		if n := units(text.Text); n > limit || strings.TrimSpace(text.Text) == "" || b.Fields != nil && n > slackField {
			t.Errorf("%d characters in a %s: %.80q", n, b.Type, text.Text)
		}
		if strings.ContainsFunc(text.Text, func(r rune) bool { return hidden(r) && r != '\n' && r != '\t' }) {
			t.Errorf("hidden characters in %q", text.Text)
		}
		if text.Type == "mrkdwn" {
			if !text.Verbatim {
				t.Errorf("names are looked for in %q", text.Text)
			}
			checkFormatted(t, text.Text)
		}
	}
}

// checkFormatted fails where a formatted text has markup other than links, or a &
// that is not one of the three escapes.
func checkFormatted(t *testing.T, text string) {
	t.Helper()
	rest := slackMarkup.ReplaceAllString(text, "")
	for line := range strings.Lines(rest) {
		rest := strings.TrimPrefix(line, "> ") // a quote
		rest = strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "").Replace(rest)
		if strings.TrimSpace(rest) != ">" && strings.ContainsAny(rest, "<>&") {
			t.Errorf("markup is left: %q in %.200q", rest, text)
		}
	}
}

// Whatever Slack or somebody in its place answers, the attempt is a success or an
// error that is fit to be shown.
func FuzzSlackAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nno_service",
		"HTTP/1.1 200 OK\r\n\r\n{\"ok\":true,\"channel\":\"C1\",\"ts\":\"1.2\"}", "HTTP/1.1 200 OK\r\n\r\n{\"ok\":false,\"error\":\"pathSecret1\"}",
		"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\n\r\n{\"ok\":false,\"error\":\"ratelimited\"}",
		"HTTP/1.1 200 OK\r\n\r\n{\"ok\":false,\"error\":\"thread_not_found\"}",
		"HTTP/1.1 200 OK\r\n\r\n{\"ok\":false,\"error\":\"invalid_blocks\",\"response_metadata\":{\"messages\":[\"\",\"headerSecret4\"]}}",
	} {
		f.Add([]byte(answer), true)
		f.Add([]byte(answer), false)
	}
	f.Fuzz(func(t *testing.T, answer []byte, bot bool) {
		h := NewHTTP(HTTPOptions{})
		defer h.Close()
		c := SlackConfig{Endpoint: Endpoint{URL: "http://slack.example/services/pathSecret1", Secrets: fuzzSecrets}}
		if bot {
			c.Token, c.Channel = "headerSecret4", "#alerts"
		}
		slack, err := NewSlack(h, c)
		if err != nil {
			t.Fatal(err)
		}
		e := checkAnswered(t, slack.client, slack, &Message{Key: "key", Follows: "C1/1503435956.000247"}, answer)
		if e != nil && e.CannotFollow && (!bot || e.MaybeDelivered || e.Class != Transient) {
			t.Errorf("bot %t: sent by itself after %+v", bot, e)
		}
	})
}
