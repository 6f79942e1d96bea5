package delivery

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// Of a fact, what is taken for the characters themselves, and what would be
// formatting in the rest.
var (
	factEscaped = regexp.MustCompile(`\\[!-/:-@\[-` + "`" + `{-~]`)
	factMarkup  = regexp.MustCompile("[*_`~<&\\[\\]\\\\]|^[ \t]*(?:[-+#>]|[0-9]+[.)])")
)

// Whatever a message says, it is within the limit of Teams, is cut between two
// characters only, and has a body that is shown as it is.
func FuzzTeamsMessage(f *testing.F) {
	fuzzTexts(f,
		"", "plain", "**bold** _it_ ~~no~~ `code` [a](https://b.example)", "<at>Somebody</at> &lt;at&gt; {{DATE(2017-02-14T06:08:00Z)}} @{x}",
		"[x](mailto:me@x.example) [y](javascript:1) ![i](https://a.example/(b))", "```\n<at>\n\n  indented\n```\n> q\n> > r\n\n1. a\n   - b\n\n     ```x\n     y\n     ```",
		strings.Repeat("*", 4100), strings.Repeat("\U0001F469\u200d\U0001F692", 4000), strings.Repeat("> ", 200)+"x", strings.Repeat("\"", 16000), strings.Repeat("line\n", 6000),
		strings.Repeat("- ", 100), "# "+strings.Repeat("e\u0301", 9000), strings.Repeat("`a` *b* ", 2000), strings.Repeat("[a](https://x.example) ", 700), "a\x00b\u202ec\xff",
	)
	f.Fuzz(func(t *testing.T, subject, body, label, address, value string, markup bool) {
		m := fuzzMessage(subject, body, label, address, value, markup)
		content := encodeTeams(m)
		if string(encodeTeams(m)) != string(content) {
			t.Error("the same message gives other bytes")
		}
		var got teamsMessage
		if err := json.Unmarshal(content, &got); err != nil || !utf8.Valid(content) {
			t.Fatalf("content is not JSON in UTF-8: %v", err)
		}
		if len(content) > teamsTotal {
			t.Errorf("%d bytes", len(content))
		}
		card := got.Attachments[0].Content
		if len(card.Actions) > teamsActions || card.Body[0].ID != "key" {
			t.Errorf("%d actions, the first element is %q", len(card.Actions), card.Body[0].ID)
		}
		for _, a := range card.Actions {
			if a.Title == "" || a.URL != safeURL(a.URL) || !strings.HasPrefix(a.URL, "http") {
				t.Errorf("an action that cannot be opened: %+v", a)
			}
		}
		for _, e := range card.Body {
			if (e.Type == "RichTextBlock") != (e.Inlines != nil) || (e.Type == "FactSet") != (e.Facts != nil) {
				t.Errorf("not an element: %+v", e)
			}
			for _, r := range e.Inlines {
				if r.Text == "" || strings.ContainsFunc(r.Text, func(r rune) bool { return hidden(r) && r != '\t' }) || r.SelectAction != nil && r.SelectAction.URL != safeURL(r.SelectAction.URL) {
					t.Errorf("not a run of text: %+v", r)
				}
			}
			for _, f := range e.Facts {
				if rest := factEscaped.ReplaceAllString(f.Title+"\x00"+f.Value, "x"); f.Title == "" || factMarkup.MatchString(rest) || factMarkup.MatchString(factEscaped.ReplaceAllString(f.Value, "x")) {
					t.Errorf("markup is left in %+v", f)
				}
			}
		}
	})
}

// Whatever the service or somebody in its place answers, the attempt is a success or
// an error that is fit to be shown.
func FuzzTeamsAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 202 Accepted\r\nx-ms-workflow-run-id: 0858CU16\r\n\r\n", "HTTP/1.1 202 Accepted\r\nx-ms-workflow-run-id: pathSecret1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n1",
		"HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":{\"code\":\"WorkflowTriggerIsNotEnabled\",\"message\":\"pathSecret1\"}}",
		"HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":{\"code\":\"QuerySecret2\",\"message\":\"querySecret2\"}}",
		"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 65\r\n\r\n{\"error\":{\"code\":\"TooManyRequests\"}}", "HTTP/1.1 404 Not Found\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\nWebhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		h := NewHTTP(HTTPOptions{})
		defer h.Close()
		teams, err := NewTeams(h, TeamsConfig{Endpoint: Endpoint{URL: "http://teams.example/workflows/pathSecret1/invoke?sig=querySecret2", Secrets: fuzzSecrets}})
		if err != nil {
			t.Fatal(err)
		}
		_ = checkAnswered(t, teams.client, teams, &Message{Key: "key"}, answer)
	})
}
