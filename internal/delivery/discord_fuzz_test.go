package delivery

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// What Discord takes for the characters themselves, for code, or for a link, and
// the words that are put in italics here.
var discordHarmless = regexp.MustCompile("(?s)\\\\[^0-9A-Za-z\\s]|```\n.*?\n```|`[^`\n]+`|" +
	`\[[^\[\]]*\]\(https?://[^\s()]+\)|<https?://[^\s<>]+>|_Left out: [0-9]+_|_Cut to what [^_]*_`)

var discordLineStart = regexp.MustCompile(`(?m)^[ \t]*(?:[-#>]|[0-9]+\.)`)

// Whatever a message says, it is within Discord's limits, calls nobody, and has no
// escape that was cut in two.
func FuzzDiscordMessage(f *testing.F) {
	fuzzTexts(f,
		"", "plain", "**bold** _it_ ~~no~~ `code` [a](https://b.example)", "<@1> <@!1> <@&1> <#1> <:a:1> <t:1:R> </a:1> <id:guide> @everyone @here",
		"[x](@here) [y](<@1>) [z](discord://x) ![i](https://a.example/(b))", "[https://bank.example](https://evil.example) [a]b](https://c.example)",
		"```\n<@1>\n```\n> q\n> > r\n\n1. a\n   - b\n\n     ```x\n     y\n     ```\n> ```\n> <@1>\n> ```", "*a **b* c**", "\\`<@1>\\`", "||x|| :smile: -# small\n# h\n- l\n>>> q\n  1. n",
		strings.Repeat("*", 4100), strings.Repeat("\U0001F469\u200d\U0001F692", 3000), strings.Repeat("> ", 200)+"x", "`"+strings.Repeat("a", 5000)+"`",
		strings.Repeat("- ", 100), "# "+strings.Repeat("e\u0301", 9000), strings.Repeat("`a` *b*\n", 2000), "a\x00b\u202ec\xff",
	)
	f.Fuzz(func(t *testing.T, subject, body, label, address, value string, markup bool) {
		m := fuzzMessage(subject, body, label, address, value, markup)
		content := encodeDiscord(m, "")
		if string(encodeDiscord(m, "")) != string(content) {
			t.Error("the same message gives other bytes")
		}
		var got discordMessage
		if err := json.Unmarshal(content, &got); err != nil || !utf8.Valid(content) {
			t.Fatalf("content is not JSON in UTF-8: %v", err)
		}
		if got.AllowedMentions.Parse == nil || len(got.AllowedMentions.Parse) > 0 || len(got.Embeds) > 10 {
			t.Errorf("%d embeds, mentions allowed: %v", len(got.Embeds), got.AllowedMentions)
		}
		total := 0
		for _, e := range got.Embeds {
			total += checkDiscordText(t, e.Title, discordTitle, false)
			total += checkDiscordText(t, e.Description, discordDescription, markup)
			for _, p := range e.Fields {
				total += checkDiscordText(t, p.Name, discordFieldName, false) + checkDiscordText(t, p.Value, discordFieldValue, false)
				if strings.TrimSpace(p.Name) == "" || strings.TrimSpace(p.Value) == "" {
					t.Errorf("an empty field: %+v", p)
				}
			}
			if e.Footer != nil {
				total += units(e.Footer.Text)
				if units(e.Footer.Text) > 2048 || !strings.HasSuffix(e.Footer.Text, "key") {
					t.Errorf("footer %q", e.Footer.Text)
				}
			}
		}
		if first := got.Embeds[0]; total > discordTotal || strings.TrimSpace(first.Title) == "" {
			t.Errorf("%d characters under the title %q", total, first.Title)
		}
	})
}

// checkDiscordText fails where a formatted text is too long or has something in it
// that was not meant to be formatting, and returns its length. A text with markup of
// its own may have delimiters and lists too.
func checkDiscordText(t *testing.T, text string, limit int, markup bool) int {
	t.Helper()
	if units(text) > limit {
		t.Errorf("%d characters: %.80q", units(text), text)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return hidden(r) && r != '\n' && r != '\t' }) {
		t.Errorf("hidden characters in %q", text)
	}
	rest := discordHarmless.ReplaceAllString(text, "x")
	never := "\\`<@[]|:"
	if !markup {
		never += "*_~"
		if discordLineStart.MatchString(rest) && rest != "-" {
			t.Errorf("a list, a quote or a heading in %q", text)
		}
	}
	if i := strings.IndexAny(rest, never); i >= 0 {
		t.Errorf("%q is left in %.300q", rest[i:i+1], text)
	}
	return units(text)
}

// Whatever Discord or somebody in its place answers, the attempt is a success or an
// error that is fit to be shown.
func FuzzDiscordAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\n\r\n{\"id\":\"2\",\"channel_id\":\"1\"}", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n{\"id\":\"pathSecret1\",\"channel_id\":\"1\"}",
		"HTTP/1.1 404 Not Found\r\n\r\n{\"message\":\"Unknown Webhook\",\"code\":10015}", "HTTP/1.1 400 Bad Request\r\n\r\n{\"message\":\"pathSecret1\",\"code\":50109}",
		"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 65\r\n\r\n{\"message\":\"You are being rate limited.\",\"retry_after\":64.57,\"global\":true}",
		"HTTP/1.1 429 Too Many Requests\r\n\r\n{\"retry_after\":1e300,\"code\":20028}", "HTTP/1.1 400 Bad Request\r\n\r\n{\"code\":-9223372036854775808,\"retry_after\":-1}",
		"HTTP/1.1 400 Bad Request\r\n\r\n{\"code\":50035,\"errors\":{\"embeds\":{\"0\":{\"title\":{\"_errors\":[{\"code\":\"x\",\"message\":\"pathSecret1\"}]}}}}}",
		"HTTP/1.1 400 Bad Request\r\n\r\n{\"code\":50035,\"errors\":{\"pathSecret1\":{\"_errors\":[{\"message\":\"headerSecret4\"}]}}}",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		h := NewHTTP(HTTPOptions{})
		defer h.Close()
		discord, err := NewDiscord(h, DiscordConfig{Endpoint: Endpoint{URL: "http://discord.example/api/webhooks/1/pathSecret1", Secrets: fuzzSecrets}})
		if err != nil {
			t.Fatal(err)
		}
		_ = checkAnswered(t, discord.client, discord, &Message{Key: "key"}, answer)
	})
}
