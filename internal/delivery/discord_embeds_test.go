package delivery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func discordBody(m *Message) string {
	var got discordMessage
	_ = json.Unmarshal(encodeDiscord(m, ""), &got)
	return got.Embeds[0].Description
}

func TestMarkdownComesOutAsDiscordWritesIt(t *testing.T) {
	for body, want := range map[string]string{
		"**b** *i* ~~s~~ `c`":                       "**b** _i_ ~~s~~ `c`",
		"*a **b** c*":                               "_a **b** c_",
		"***both***":                                "**_both_**",
		"**two\nlines**":                            "**two**\n**lines**",
		"# Title\ntext":                             "**Title**\n\ntext",
		"- a\n- b\n  - c\n\n1. d\n2. e":             "- a\n- b\n    - c\n\n1. d\n2. e",
		"> a\n> b\n\nd":                             "> a\n> b\n\nd",
		"> a\n>\n> ```\n> b\n> ```\n>\n> c":         "> a\n\n```\nb\n```\n\n> c",
		"```go\nif a < b && c_d {\n}\n```\nafter":   "```\nif a < b && c_d {\n}\n```\n\nafter",
		"`` a`b_c ``":                               "`aˋb_c`",
		"~~~\n```\n~~~":                             "```\nˋˋˋ\n```",
		"[a](https://x.example/p_q?r=1&s=2)":        "[a](https://x.example/p_q?r=1&s=2)",
		"[a](https://x.example/\\(b\\))":            "[a](https://x.example/%28b%29)",
		"[a\\[b\\]c](https://x.example)":            "[a(b)c](https://x.example)",
		"[](https://x.example)":                     "<https://x.example>",
		"[https://bank.example](https://x.example)": `https\://bank.example <https://x.example>`,
		"[a](javascript:alert(1))":                  `a (javascript\:alert(1))`,
		"[us](mailto:me@x.example) <me@x.example>":  `us (me\@x.example) me\@x.example`,
		"![alt](https://x.example/i.png)":           "[alt](https://x.example/i.png)",
		"https://x.example/a_b_c, www.y.example":    "<https://x.example/a_b_c>, [www.y.example](http://www.y.example)",
		"<@1> <@&2> <#3> <:a:4> <t:5> </b:6>":       `\<\@1> \<\@&2> \<#3> \<\:a\:4> \<t\:5> \</b\:6>`,
		"@everyone @here":                           `\@everyone \@here`,
		"||spoiler|| :smile:":                       `\|\|spoiler\|\| \:smile\:`,
		"\\*a\\* \\_b\\_ \\`c\\`":                   "\\*a\\* \\_b\\_ \\`c\\`",
		"a\n\\# b\n\\- c\n\\> d\n1\\. e\n-# f":      "a\n\\# b\n\\- c\n\\> d\n1\\. e\n\\-# f",
		"a\x00b\u202ec\xff\r\nd":                    "abc\ufffd\nd",
		" \n\t":                                     "",
	} {
		if got := discordBody(&Message{Key: "k", Subject: "s", Body: body, BodyFormat: "Markdown"}); got != want {
			t.Errorf("%q:\n got %q\nwant %q", body, got, want)
		}
	}
}

func TestDiscordShowsAPlainBodyAsItIsWritten(t *testing.T) {
	for body, want := range map[string]string{
		"*a* _b_ ~~c~~ `d` [e](f)": "\\*a\\* \\_b\\_ \\~\\~c\\~\\~ \\`d\\` \\[e\\](f)",
		"# a\n- b\n> c\n  1. d":    "\\# a\n\\- b\n\\> c\n  1\\. d",
		"see https://x.example/a":  `see https\://x.example/a`,
		`C:\dir\`:                  `C\:\\dir\\`,
	} {
		if got := discordBody(&Message{Key: "k", Subject: "s", Body: body, BodyFormat: "Plain"}); got != want {
			t.Errorf("%q:\n got %q\nwant %q", body, got, want)
		}
	}
}

func TestDiscordGetsAllThatFits(t *testing.T) {
	m := &Message{Key: "k", Namespace: "payments", Name: "disk-full", Subject: strings.Repeat("long ", 60), Body: strings.Repeat("word ", 600), Fields: map[string]string{}}
	for i := range 32 {
		m.Fields[fmt.Sprintf("f%02d", i)] = "v"
	}
	var got discordMessage
	content := encodeDiscord(m, "robot")
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Embeds) != 2 || len(got.Embeds[0].Fields) != 25 || len(got.Embeds[1].Fields) != 7 || got.Username != "robot" {
		t.Fatalf("what came out: %s", content)
	}
	description := got.Embeds[0].Description
	if strings.Contains(description, "Cut to") || strings.Count(description, "word") != 600 || strings.Count(description, "long") != 60 {
		t.Errorf("cut, although there is room: %s", description)
	}
	m.Body = strings.Repeat("word ", 1000)
	m.Links = []Link{{Label: "bad", URL: "ftp://x.example"}, {Label: "Run [book]", URL: "https://runbooks.example.com/?a&b"}, {Label: "long", URL: "https://x.example/" + strings.Repeat("p", 2000)}}
	if got := discordBody(m); units(got) > discordDescription || !strings.HasSuffix(got, " …\n\n"+
		"_Cut to what Discord takes. All of it is in the NotificationRequest payments/disk-full._ [Run (book)](https://runbooks.example.com/?a&b)\n\n"+
		`bad ftp\://x.example`+"\n[Run (book)](https://runbooks.example.com/?a&b)\n_Left out: 1_") {
		t.Errorf("%d characters, which end with %q", units(got), got[len(got)-400:])
	}
}

func TestDiscordGetsNoMoreThanItTakesAltogether(t *testing.T) {
	long := strings.Repeat("long ", 3000)
	m := &Message{
		Key: "k", Subject: long, Body: long, Severity: long, CorrelationID: long, Namespace: long, Regarding: &Reference{Kind: long, Name: long},
		Fields: map[string]string{"a": long, "b": long},
	}
	var got discordMessage
	if err := json.Unmarshal(encodeDiscord(m, ""), &got); err != nil {
		t.Fatal(err)
	}
	e := got.Embeds[0]
	total := units(e.Title) + units(e.Description) + units(e.Footer.Text)
	for _, p := range e.Fields {
		total += units(p.Name) + units(p.Value)
	}
	if total > discordTotal || total < discordTotal-discordNote {
		t.Errorf("%d characters, want %d or a little less", total, discordTotal)
	}
}

func TestDiscordShowsThePriorityInColour(t *testing.T) {
	seen := map[int]string{}
	for _, priority := range []string{"", "Low", "Medium", "High", "Critical"} {
		var got discordMessage
		_ = json.Unmarshal(encodeDiscord(&Message{Key: "k", Priority: priority, Fields: map[string]string{"a": "b"}}, ""), &got)
		colour := got.Embeds[0].Color
		if other, ok := seen[colour]; ok || (priority == "") != (colour == 0) {
			t.Errorf("%q has the colour %06x, %q too", priority, colour, other)
		}
		seen[colour] = priority
	}
}
