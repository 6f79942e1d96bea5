package delivery

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func rendered(body string, limit, total int) (sections []string, cut bool) {
	all, more := paragraphs(&Message{Body: body, BodyFormat: "Markdown"})
	sections, cut = mrkdwn.sections(all, limit, total)
	return sections, cut || more
}

func TestMarkdownComesOutAsSlackWritesIt(t *testing.T) {
	for body, want := range map[string]string{
		"**b** __b__ *i* _i_ ~~s~~ `c`": "*b* *b* _i_ _i_ ~s~ `c`",
		"*a **b** c*":                   "_a *b* c_",
		"**a *b* c**":                   "*a _b_ c*",
		"***both***":                    "*_both_*",
		"**two\nlines**":                "*two*\n*lines*",
		"one  \ntwo":                    "one\ntwo",
		"one\n\ntwo":                    "one\n\ntwo",
		"# Title\ntext":                 "*Title*\n\ntext",
		"Title\n===\n\n---":             "*Title*\n\n———",
		"- a\n- b\n  - c\n\n1. d\n2. e": "• a\n• b\n    • c\n\n1. d\n2. e",
		"3) c\n4) d":                    "3. c\n4. d",
		"- a\n\n  more\n- ":             "• a\n\n   more\n\n•",
		"> a\n> b\n>\n> c\n\nd":         "> a\n> b\n> \n> c\n\nd",
		"> > deep":                      "> deep",
		"```go\nif a < b && c {\n\n}\n```\nafter": "```\nif a &lt; b &amp;&amp; c {\n\n}\n```\n\nafter",
		"    indented":  "```\nindented\n```",
		"`` a`b ``":     "`aˋb`",
		"~~~\n```\n~~~": "```\nˋˋˋ\n```",
		"[a](https://x.example/p?q=1&r=2 \"title\")": "<https://x.example/p?q=1&amp;r=2|a>",
		"[**a** b](https://x.example)":               "*<https://x.example|a>*<https://x.example| b>",
		"[a|b>c](https://x.example/|>)":              "<https://x.example/%7C%3E|a|b&gt;c>",
		"[](https://x.example)":                      "<https://x.example>",
		"[a](javascript:alert(1))":                   "a (javascript:alert(1))",
		"[a](/docs)":                                 "a (/docs)",
		"[a](!channel) [b](@U1) [c](#C1)":            "a (!channel) b (@U1) c (#C1)",
		"![alt](https://x.example/i.png)":            "<https://x.example/i.png|alt>",
		"https://x.example/a_b_c, www.y.example":     "<https://x.example/a_b_c>, <http://www.y.example|www.y.example>",
		"<https://x.example> <me@x.example>":         "<https://x.example> <mailto:me@x.example|me@x.example>",
		"<!channel> <@U1> <#C1|x>":                   "&lt;!channel&gt; &lt;@U1&gt; &lt;#C1|x&gt;",
		"<!here>\n":                                  "&lt;!here&gt;",
		"&lt;!here&gt; &amp;lt; &#60;@U1> &copy;":    "&lt;!here&gt; &amp;lt; &lt;@U1&gt; ©",
		"<script>\nx\n</script>":                     "&lt;script&gt;\nx\n&lt;/script&gt;",
		"\\*a\\* \\<!here> \\&amp;":                  "*a* &lt;!here&gt; &amp;amp;",
		"a\x00b\u202ec\xff\r\nd":                     "abc\ufffd\nd",
		" \n\t":                                      "",
		"> a\n>\n> ```\n> <b>\n> ```\n>\n> c":        "> a\n\n```\n&lt;b&gt;\n```\n\n> c",
	} {
		sections, cut := rendered(body, slackSection, slackTotal)
		if got := strings.Join(sections, "|"); got != want || cut {
			t.Errorf("%q: cut %t\n got %q\nwant %q", body, cut, got, want)
		}
	}
}

// Each of these is too long for two sections, of forty characters at most and
// seventy-five together.
func TestCuttingNeverDividesWhatBelongsTogether(t *testing.T) {
	for body, want := range map[string][]string{
		strings.Repeat("word ", 30):                           {"word word word word word word word", strings.Repeat("word ", 7) + "…"},
		"**" + strings.Repeat("word ", 30) + "x**":            {"*word word word word word word word*", "*word word word word word word word …*"},
		strings.Repeat("&", 100):                              {strings.Repeat("&amp;", 7), strings.Repeat("&amp;", 7) + "…"},
		strings.Repeat("\U0001F469\u200d\U0001F692", 100):     {strings.Repeat("\U0001F469\u200d\U0001F692", 7), strings.Repeat("\U0001F469\u200d\U0001F692", 7) + "…"},
		strings.Repeat("e\u0301", 90):                         {strings.Repeat("e\u0301", 19), strings.Repeat("e\u0301", 18) + "…"},
		"> " + strings.Repeat("word ", 30):                    {"> word word word word word word word", "> word word word word word word …"},
		"```\n" + strings.Repeat("line of code\n", 9) + "```": {"```\nline of code\nline of code\n\n```", "```\nline of code\nline of code\n…\n```"},
	} {
		t.Run(fmt.Sprintf("%.12q", body), func(t *testing.T) {
			sections, cut := rendered(body, 40, 75)
			if diff := cmp.Diff(want, sections); diff != "" || !cut {
				t.Errorf("cut %t, want (-) and got (+):\n%s", cut, diff)
			}
		})
	}
}

func TestAWholeBodyIsNotCut(t *testing.T) {
	m := &Message{Key: "k", Subject: "s", Body: strings.Repeat("word ", 1850)}
	for _, format := range []string{"Plain", "Markdown"} {
		m.BodyFormat = format
		content := string(encodeSlack(m, ""))
		if strings.Contains(content, "Cut to") || strings.Count(content, "word") != 1850 {
			t.Errorf("%s: cut, although there is room", format)
		}
	}
	m.Body, m.Namespace, m.Name = strings.Repeat("word ", 2100), "payments", "disk-full"
	m.Links = []Link{{Label: "bad", URL: "!channel"}, {Label: "Run<book>", URL: "https://runbooks.example.com/?a&b"}}
	if content := string(encodeSlack(m, "")); !strings.Contains(content,
		"_Cut to what Slack takes. All of it is in the NotificationRequest payments/disk-full._ <https://runbooks.example.com/?a&amp;b|Run&lt;book&gt;>") {
		t.Errorf("no note, or not with the first link: %s", content[len(content)-2000:])
	}
}
