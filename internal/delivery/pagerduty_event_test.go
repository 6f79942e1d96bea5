package delivery

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPagerDutySeverity(t *testing.T) {
	for _, c := range []struct{ severity, priority, want string }{
		{"critical", "Low", "critical"},
		{"Error", "Low", "error"},
		{" WARNING ", "Critical", "warning"},
		{"info", "Critical", "info"},
		{"fatal", "", "critical"},
		{"page", "", "critical"},
		{"SEV1", "", "critical"},
		{"p2", "", "error"},
		{"Minor", "", "warning"},
		{"notice", "", "info"},
		{"", "Critical", "critical"},
		{"", "High", "error"},
		{"", "Medium", "warning"},
		{"", "Low", "info"},
		{"", "", "warning"},
		{"purple", "High", "error"},
		{"not critical", "Low", "info"},
	} {
		if got := pagerDutySeverity(&Message{Severity: c.severity, Priority: c.priority}); got != c.want {
			t.Errorf("severity %q with priority %q is %q, want %q", c.severity, c.priority, got, c.want)
		}
	}
}

func TestIncidentKeyIsShortAndOfOneIncidentAlone(t *testing.T) {
	long := strings.Repeat("\U0001F692", 253)
	keys := map[string]string{}
	for _, m := range []Message{
		{Namespace: "a", CorrelationID: "b"},
		{Namespace: "a", CorrelationID: "b/c"},
		{Namespace: "a", CorrelationID: "B"},
		{Namespace: "a", CorrelationID: "b "},
		{Namespace: "a", CorrelationID: "b  c"},
		{Namespace: "a", CorrelationID: "b c"},
		{Namespace: "a", CorrelationID: long},
		{Namespace: "a", CorrelationID: long[:len(long)-4]},
		{Namespace: "b", CorrelationID: long},
	} {
		key := incidentKey(&m)
		if other, ok := keys[key]; ok || units(key) > 255 || oneLine(key) != key {
			t.Errorf("%q of %q, and of %q", key, m.Namespace+"/"+m.CorrelationID, other)
		}
		keys[key] = m.Namespace + "/" + m.CorrelationID
	}
	if got := incidentKey(&Message{Namespace: "shop", CorrelationID: "incident-1"}); got != "shop/incident-1" {
		t.Errorf("%q, which a person cannot read", got)
	}
}

func TestPlainBodyIsTheTextWithoutItsMarkup(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"nothing":       {"", ""},
		"styles":        {"**bold** _it_ ~~no~~ `code` \\*as is\\* &amp; <b>", "bold it no code *as is* & <b>"},
		"paragraphs":    {"# One\n\ntwo\nthree", "One\n\ntwo\nthree"},
		"links":         {"[a](https://b.example) https://c.example <d@e.example> [f](javascript:g)", "a <https://b.example> https://c.example d@e.example f (javascript:g)"},
		"lists":         {"1. a\n2. b\n   - c\n\n     d\n3. e", "1. a\n2. b\n\n  - c\n\n    d\n3. e"},
		"quotes":        {"> a\n> b\n\nc", "> a\n> b\n\nc"},
		"code":          {"```sh\na\n  b\n```\nc", "    a\n      b\n\nc"},
		"a code's line": {"- a\n  ```\n  b\n  c\n  ```", "- a\n\n      b\n      c"},
	} {
		if got := plainBody(&Message{BodyFormat: "Markdown", Body: c.body}); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if got := plainBody(&Message{BodyFormat: "Plain", Body: c.body}); got != c.body {
			t.Errorf("%s: Plain became %q, want %q", name, got, c.body)
		}
	}
	long := strings.Repeat("**a** ", maxMarkdown)
	if got := plainBody(&Message{BodyFormat: "Markdown", Body: long}); got != long {
		t.Errorf("of %d bytes of Markdown, %d are left", len(long), len(got))
	}
}

// What a request can have at most has room, whatever its characters are. What is
// longer is cut and says so.
func TestPagerDutyCutsNothingThatARequestCanHave(t *testing.T) {
	most := func(char string, body int) *Message {
		m := &Message{
			Key: "key", Namespace: strings.Repeat("n", 63), Name: strings.Repeat("n", 253), Subject: strings.Repeat(char, 500),
			Body: strings.Repeat(char, body), Severity: strings.Repeat(char, 64), CorrelationID: strings.Repeat(char, 253), Fields: map[string]string{},
		}
		for i := range 32 {
			m.Fields[strings.Repeat(char, 60)+string(rune('A'+i))] = strings.Repeat(char, 1024)
		}
		for range 16 {
			m.Links = append(m.Links, Link{Label: strings.Repeat(char, 128), URL: "https://example.com/" + strings.Repeat("p", 2028)})
		}
		return m
	}
	for _, char := range []string{"x", `"`, "\u4e16", "\U0001F600"} {
		m := most(char, 32768)
		content := encodePagerDuty(m, &PagerDutyConfig{})
		var got pagerDutyMessage
		if err := json.Unmarshal(content, &got); err != nil || len(content) > pagerDutyEvent {
			t.Fatalf("%q: %d bytes, %v", char, len(content), err)
		}
		if details := got.Payload.Details; got.Payload.Summary != m.Subject || details.Body != m.Body || details.Cut != "" || len(got.Links) != 16 {
			t.Errorf("%q: something is cut", char)
		} else {
			for name, value := range m.Fields {
				if details.Fields[name] != value {
					t.Errorf("%q: the field %q is cut", char, name)
				}
			}
		}

		m = most(char, 600_000)
		content = encodePagerDuty(m, &PagerDutyConfig{})
		got = pagerDutyMessage{}
		if err := json.Unmarshal(content, &got); err != nil || len(content) > pagerDutyEvent || len(content) < pagerDutyEvent/3 || !utf8.Valid(content) {
			t.Fatalf("%q: %d bytes, %v", char, len(content), err)
		}
		if details := got.Payload.Details; !strings.HasSuffix(details.Body, ellipsis) ||
			!strings.HasSuffix(details.Cut, "in the NotificationRequest "+m.Namespace+"/"+m.Name+".") {
			t.Errorf("%q: the cut is not told: %q", char, details.Cut)
		}
	}
}

func TestPagerDutyKeepsFieldsAndLinksThatItCannotShowAsTheyAre(t *testing.T) {
	var got pagerDutyMessage
	if err := json.Unmarshal(encodePagerDuty(&Message{
		Key: "key", Fields: map[string]string{"a": "1", "a\u202e": "2", "\x1b": "3", "a_2": "4"},
		Links: []Link{{"script", "javascript:alert(1)"}, {"mail", "mailto:a@b.example"}, {"", ""}, {"good", "https://c.example"}, {"long", "https://d.example/" + strings.Repeat("p", 5000)}},
	}, &PagerDutyConfig{}), &got); err != nil {
		t.Fatal(err)
	}
	details := got.Payload.Details
	if f := details.Fields; len(f) != 4 || f["a"] != "1" || f["a_2"] != "4" && f["a_2_2"] != "4" || f["-"] != "3" {
		t.Errorf("fields %q", f)
	}
	if len(got.Links) != 1 || got.Links[0].Href != "https://c.example" || len(details.OtherLinks) != 3 || details.OtherLinks[0] != "script javascript:alert(1)" ||
		len(details.OtherLinks[2]) > 1100 {
		t.Errorf("links %q, other links %q", got.Links, details.OtherLinks)
	}
}
