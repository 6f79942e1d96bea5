package delivery

import (
	"fmt"
	"mime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMarkdownComesOutAsTextAndAsHTML(t *testing.T) {
	for body, want := range map[string]struct{ text, html string }{
		"**b** *i* ~~s~~ `c` ***both***": {"b i s c both", "<p><b>b</b> <i>i</i> <s>s</s> <code>c</code> <b><i>both</i></b></p>"},
		"one\ntwo\n\nthree":              {"one\ntwo\n\nthree", "<p>one<br>\ntwo</p>\n<p>three</p>"},
		"# Title\ntext":                  {"Title\n\ntext", "<p><b>Title</b></p>\n<p>text</p>"},
		"- a\n- b\n  1. c\n\nd": {
			"- a\n- b\n  1. c\n\nd",
			`<p style="margin:0.3em 0 0.3em 2em">&bull; a</p>` + "\n" + `<p style="margin:0.3em 0 0.3em 2em">&bull; b</p>` + "\n" +
				`<p style="margin:0.3em 0 0.3em 4em">1. c</p>` + "\n<p>d</p>",
		},
		"> a\n> b":                                {"> a\n> b", "<blockquote><p>a<br>\nb</p></blockquote>"},
		"```\nif a < b {\n\n}\n```":               {"    if a < b {\n    \n    }", "<pre>if a &lt; b {\n\n}</pre>"},
		"[a **b**](https://x.example/?q=1&r=2)":   {"a b <https://x.example/?q=1&r=2>", `<p><a href="https://x.example/?q=1&amp;r=2">a </a><a href="https://x.example/?q=1&amp;r=2"><b>b</b></a></p>`},
		"[a](https://x.example/\"onclick=\"x)":    {"a <https://x.example/%22onclick=%22x>", `<p><a href="https://x.example/%22onclick=%22x">a</a></p>`},
		"[a](javascript:alert(1))":                {"a (javascript:alert(1))", "<p>a (javascript:alert(1))</p>"},
		"[a](data:text/html,x)":                   {"a (data:text/html,x)", "<p>a (data:text/html,x)</p>"},
		"![alt](https://x.example/i.png)":         {"alt <https://x.example/i.png>", `<p><a href="https://x.example/i.png">alt</a></p>`},
		"https://x.example <me@x.example>":        {"https://x.example me@x.example", `<p><a href="https://x.example">https://x.example</a> <a href="mailto:me@x.example">me@x.example</a></p>`},
		"<script>alert(1)</script>":               {"<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"},
		"a <img src=x onerror=y> &lt;b&gt; \"q\"": {"a <img src=x onerror=y> <b> \"q\"", "<p>a &lt;img src=x onerror=y&gt; &lt;b&gt; &#34;q&#34;</p>"},
	} {
		m := &Message{Subject: "s", Body: body, BodyFormat: "Markdown"}
		if got := strings.TrimSuffix(emailText(m), "\n"); got != want.text {
			t.Errorf("%q as text:\n got %q\nwant %q", body, got, want.text)
		}
		got := strings.TrimSuffix(strings.TrimPrefix(emailHTML(m), fmt.Sprintf(htmlHead, "s", "s")), "\n"+htmlEnd)
		if got != want.html {
			t.Errorf("%q as HTML:\n got %q\nwant %q", body, got, want.html)
		}
	}
}

func TestSubjectsAreOneHeaderAndReadAsTheyWere(t *testing.T) {
	for subject, want := range map[string]string{
		"Disk full":                         "Disk full",
		"":                                  "(no subject)",
		"a\r\nBcc: x@y.z":                   "a Bcc: x@y.z",
		"größer \U0001F469\u200d\U0001F692": "größer \U0001F469\u200d\U0001F692",
		"=?utf-8?B?DQo=?=":                  "=?utf-8?B?DQo=?=",
		strings.Repeat("x", 500):            strings.Repeat("x", 500),
		strings.Repeat("ab ", 160) + "c":    strings.Repeat("ab ", 160) + "c",
		strings.Repeat("世界", 250):           strings.Repeat("世界", 250),
	} {
		header := foldSubject(emailSubject(&Message{Subject: subject}))
		for i, line := range strings.Split("Subject: "+header, "\r\n") {
			if len(line) > 76 || i > 0 && !strings.HasPrefix(line, " ") {
				t.Errorf("%.40q: line %d is %q", subject, i, line)
			}
		}
		got, err := new(mime.WordDecoder).DecodeHeader(strings.ReplaceAll(header, "\r\n", ""))
		if err != nil || got != want {
			t.Errorf("%.40q is read as %.80q, want %.80q, error %v", subject, got, want, err)
		}
		if strings.ContainsFunc(header, func(r rune) bool { return r >= utf8.RuneSelf }) {
			t.Errorf("%.40q is not ASCII: %q", subject, header)
		}
	}
}

func TestMailsOfOneCorrelationAreOneThread(t *testing.T) {
	e := testMail(t)
	references := func(correlation string) string {
		for line := range strings.Lines(string(e.encode(&Message{Key: correlation + "-key", CorrelationID: correlation}))) {
			if value, ok := strings.CutPrefix(line, "References: "); ok {
				return value
			}
		}
		return ""
	}
	first := references("incident-42")
	if first == "" || references("incident-42") != first || references("incident-43") == first {
		t.Errorf("references %q, again %q, another %q", first, references("incident-42"), references("incident-43"))
	}
}

// What is more than this a server may refuse that takes mails of Postfix's default
// size, ten million bytes; a header of more than 102,400 it would cut.
func TestTheLargestMailIsFarFromWhatServersTake(t *testing.T) {
	e := testMail(t)
	for range 50 {
		address := strings.Repeat("a", 64) + "@" + strings.Repeat("b", 185) + ".com"
		e.config.To, e.config.Cc = append(e.config.To, address), append(e.config.Cc, address)
	}
	for _, body := range []string{"\U0001F600", "\"", "="} {
		m := &Message{Key: "key", CorrelationID: "c", Subject: strings.Repeat(body, 500), Body: strings.Repeat(body, 32768), Fields: map[string]string{}}
		for i := range 32 {
			m.Fields[fmt.Sprint(i)] = strings.Repeat(body, 1024)
		}
		for range 16 {
			m.Links = append(m.Links, Link{Label: strings.Repeat(body, 128), URL: "https://x.example/" + strings.Repeat(body, 2030)})
		}
		content := e.encode(m)
		if len(content) > 10240000/4 {
			t.Errorf("%q: a mail of %d bytes", body, len(content))
		}
		if header, _, _ := strings.Cut(string(content), "\r\n\r\n"); len(header) > 102400/2 {
			t.Errorf("%q: a header of %d bytes", body, len(header))
		}
	}
}
