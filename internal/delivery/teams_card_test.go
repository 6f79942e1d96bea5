package delivery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func cardOf(t *testing.T, m *Message) teamsCard {
	t.Helper()
	content := encodeTeams(m)
	if len(content) > teamsTotal {
		t.Errorf("%d bytes", len(content))
	}
	var got teamsMessage
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	return got.Attachments[0].Content
}

// drawn writes lines one below the other, with an empty one where there is a
// distance, and styles as tags.
func drawn(lines []teamsElement) string {
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\n")
		}
		if i > 0 && l.Spacing != "None" {
			b.WriteString("\n")
		}
		for _, r := range l.Inlines {
			tags := ""
			for _, style := range []struct {
				is  bool
				tag string
			}{{r.Weight == "Bolder", "b"}, {r.Italic, "i"}, {r.Strikethrough, "s"}, {r.FontType == "Monospace", "c"}} {
				if style.is {
					tags += style.tag
				}
			}
			if r.SelectAction != nil {
				tags += " " + r.SelectAction.URL
			}
			if tags != "" {
				tags = "{" + tags + "}"
			}
			b.WriteString(tags + strings.ReplaceAll(r.Text, "\u00a0", "_"))
		}
	}
	return b.String()
}

func TestMarkdownComesOutAsTeamsShowsIt(t *testing.T) {
	for body, want := range map[string]string{
		"**b** *i* ~~s~~ `c` d":                    "{b}b {i}i {s}s {c}c d",
		"***both***":                               "{bi}both",
		"**two\nlines**":                           "{b}two\n{b}lines",
		"one\n\ntwo":                               "one\n\ntwo",
		"# Title\ntext":                            "{b}Title\n\ntext",
		"- a\n- b\n  - c\n\n1. d\n2. e":            "• a\n• b\n____• c\n\n1. d\n2. e",
		"- a\n\n  more\n- ":                        "• a\n\n__more\n\n• ",
		"> a\n> b\n\nd":                            "> a\n> b\n\nd",
		"```go\nif a < b {\n\n\tc\n}\n```\nd":      "{c}if a < b {\n\n{c}\tc\n{c}}\n\nd",
		"[a **b**](https://x.example/(c)?d&e)":     "{ https://x.example/(c)?d&e}a {b https://x.example/(c)?d&e}b",
		"[a](javascript:alert(1))":                 "a (javascript:alert(1))",
		"[us](mailto:me@x.example) <me@x.example>": "us (me@x.example) me@x.example",
		"![alt](https://x.example/i.png)":          "{ https://x.example/i.png}alt",
		"<at>Me</at> &lt;at&gt; \\*a\\* _b":        "<at>Me</at> <at> *a* _b",
		"a\x00b\u202ec\xff\r\nd":                   "abc\ufffd\nd",
		" \n\t":                                    "",
	} {
		card := cardOf(t, &Message{Key: "k", Subject: "s", Body: body, BodyFormat: "Markdown"})
		if got := drawn(card.Body[1:]); got != want {
			t.Errorf("%q:\n got %q\nwant %q", body, got, want)
		}
	}
}

func TestTeamsShowsAPlainBodyAsItIsWritten(t *testing.T) {
	body := "# *a* _b_ `c` [d](e)\n- f\n\n  1. g <at>h</at> \\ &amp;"
	if got, want := drawn(cardOf(t, &Message{Key: "k", Subject: "s", Body: body}).Body[1:]), body; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestTeamsGetsAllThatFits(t *testing.T) {
	m := &Message{Key: "k", Namespace: "payments", Name: "disk-full", Subject: "s", Body: strings.Repeat("line of a \"log\"\n", 240), Fields: map[string]string{}}
	for i := range 32 {
		m.Fields[fmt.Sprintf("*f%02d", i)] = "_v_"
	}
	for i := range 8 {
		m.Links = append(m.Links, Link{Label: fmt.Sprint("link ", i), URL: "https://x.example/"})
	}
	card := cardOf(t, m)
	last := card.Body[len(card.Body)-1].Inlines[0].Text
	table := card.Body[len(card.Body)-2].Facts
	if got := drawn(card.Body[1 : len(card.Body)-2]); strings.Count(got, `line of a "log"`) != 240 || strings.Contains(got, "Cut to") {
		t.Errorf("cut, although there is room: %d lines", strings.Count(got, "log"))
	}
	if len(table) != 32 || table[31] != (teamsFact{Title: `\*f31`, Value: `\_v\_`}) || len(card.Actions) != 6 || last != "Request payments/disk-full · Links left out 2" {
		t.Errorf("%d facts, %d actions, %q", len(table), len(card.Actions), last)
	}

	m.Body = strings.Repeat("word ", 6000)
	card = cardOf(t, m)
	if got := drawn(card.Body[1 : len(card.Body)-2]); !strings.HasSuffix(got, "…\n\nCut to what Teams takes. All of it is in the NotificationRequest payments/disk-full.") {
		t.Errorf("no note: %q", got[len(got)-200:])
	}
	// What is left unused is less than a note takes.
	if n := len(encodeTeams(m)); n < teamsTotal-teamsNote {
		t.Errorf("%d bytes, although there are %d", n, teamsTotal)
	}
}

// Of a link nothing but its label can be cut.
func TestTeamsLeavesALinkOutThatDoesNotFit(t *testing.T) {
	for before := 8000; before < 9200; before += 50 {
		link := "[a](https://x.example/" + strings.Repeat("p", 2000) + ")"
		cardOf(t, &Message{Key: "k", Body: strings.Repeat("\u4e16", before) + link, BodyFormat: "Markdown"})
	}
}

func TestTeamsIsCutBetweenTwoCharacters(t *testing.T) {
	for _, character := range []string{"\U0001F469\u200d\U0001F692", "e\u0301", "\"", "\u4e16"} {
		card := cardOf(t, &Message{Key: "k", Subject: strings.Repeat(character, 3000), Body: strings.Repeat(character, 16000)})
		for _, e := range card.Body[:2] {
			if rest := strings.ReplaceAll(e.Inlines[0].Text, character, ""); rest != "…" {
				t.Errorf("%q: %q is left", character, rest)
			}
		}
	}
}

func TestTeamsShowsThePriorityInColour(t *testing.T) {
	for priority, want := range map[string]string{"": "", "Low": "", "Medium": "Accent", "High": "Warning", "Critical": "Attention"} {
		if got := cardOf(t, &Message{Key: "k", Priority: priority}).Body[0].Inlines[0].Color; got != want {
			t.Errorf("%q has the colour %q, want %q", priority, got, want)
		}
	}
}
