package delivery

import (
	"encoding/json"
	"fmt"
	"html"
	"iter"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxText is how long an error's message and a receipt may be, in bytes.
	maxText = 256

	// minSecret is the shortest string that is masked. Anything shorter is no
	// secret, and masking it would make all texts unreadable.
	minSecret = 4

	mask = "[redacted]"

	// maxEscapes is how many levels of escapes are looked beneath: a log line in
	// JSON quotes a URL in JSON that has been escaped already.
	maxEscapes = 3
)

// hidden reports whether a rune can move the cursor, break the line or reorder
// the text around it.
func hidden(r rune) bool {
	switch {
	case unicode.IsControl(r):
	case r == '\u2028' || r == '\u2029' || r == '\ufeff':
	case r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069':
	default:
		return false
	}
	return true
}

// clean makes one line of valid UTF-8 of at most maxText bytes out of any text.
func clean(s string) string {
	return cut(oneLine(s), maxText)
}

// printable makes valid UTF-8 of text of several lines, without what is hidden.
func printable(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		if hidden(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// oneLine makes one line of valid UTF-8 out of any text.
func oneLine(s string) string { return read(strings.ToValidUTF8(s, "\ufffd")).fold().String() }

// units is the length of a text in UTF-16, which no way of counting characters
// goes beyond.
func units(s string) (n int) {
	for _, r := range s {
		n++
		if r > 0xffff {
			n++
		}
	}
	return n
}

// maxCluster is how many runes are taken for one character at most.
const maxCluster = 16

// characters yields what a reader takes for one character each: a letter with its
// accents, an emoji with its parts.
func characters(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, runes, joined := 0, 0, false
		for i, r := range s {
			part := joined || r == '\u200d' || r >= 0x1f3fb && r <= 0x1f3ff || unicode.Is(unicode.M, r)
			if i > start && (!part || runes == maxCluster) {
				if !yield(s[start:i]) {
					return
				}
				start, runes = i, 0
			}
			runes++
			joined = r == '\u200d'
		}
		if start < len(s) {
			yield(s[start:])
		}
	}
}

const ellipsis = "…"

// fit escapes a text and cuts it, between two characters, to at most limit units
// of what comes out.
func fit(s string, limit int, escape func(string) string) string {
	return fitBy(units, s, limit, escape)
}

// fitBy does what fit does where a text's length is another one.
func fitBy(length func(string) int, s string, limit int, escape func(string) string) string {
	if whole := escape(s); length(whole) <= limit {
		return whole
	}
	var b strings.Builder
	left := limit - length(ellipsis)
	for c := range characters(s) {
		escaped := escape(c)
		if left -= length(escaped); left < 0 {
			break
		}
		b.WriteString(escaped)
	}
	return b.String() + ellipsis
}

// asIs escapes nothing.
func asIs(s string) string { return s }

// subject is a message's subject in one line, never empty.
func subject(m *Message) string {
	if s := oneLine(m.Subject); s != "" {
		return s
	}
	return "(no subject)"
}

// fact is something about a message that stands beside what it says.
type fact struct{ name, value string }

// facts returns what there is to say about a message, each in one line.
func facts(m *Message) (all []fact) {
	for _, f := range []fact{
		{"Priority", m.Priority},
		{"Severity", m.Severity},
		{"Type", m.Type},
		{"Regarding", m.Regarding.String()},
		{"Request", strings.Trim(m.Namespace+"/"+m.Name, "/")},
		{"Correlation", m.CorrelationID},
	} {
		if f.value = oneLine(f.value); f.value != "" {
			all = append(all, f)
		}
	}
	return all
}

// cutNote says that a body was cut and where all of it is.
func cutNote(m *Message, provider string, escape func(string) string) string {
	return fmt.Sprintf("Cut to what %s takes. All of it is in the NotificationRequest %s/%s.",
		provider, fit(oneLine(m.Namespace), 63, escape), fit(oneLine(m.Name), 253, escape))
}

// cut shortens valid UTF-8 to at most limit bytes without splitting a rune.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

var urlPattern = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#@"']*@)?([^\s/?#"']*)[^\s"']*`)

// withoutURLs leaves of every URL in the text its scheme and host.
func withoutURLs(s string) string { return urlPattern.ReplaceAllString(s, "$1$2") }

// reading is a text that was made out of another one.
type reading struct {
	text []byte
	from []int // where in the other text what became a byte begins; then where that text ends
}

func read(s string) *reading {
	r := &reading{text: []byte(s), from: make([]int, len(s)+1)}
	for i := range r.from {
		r.from[i] = i
	}
	return r
}

func (r *reading) String() string { return string(r.text) }

func (r *reading) add(text string, from int) {
	r.text = append(r.text, text...)
	for range len(text) {
		r.from = append(r.from, from)
	}
}

// fold makes one line of valid UTF-8, with a single space for all white space and
// all that is hidden between two words.
func (r *reading) fold() *reading {
	line, gap := &reading{}, -1
	for i, c := range r.String() {
		if unicode.IsSpace(c) || hidden(c) {
			if gap < 0 {
				gap = i
			}
			continue
		}
		if gap >= 0 && len(line.text) > 0 {
			line.add(" ", r.from[gap])
		}
		gap = -1
		line.add(string(c), r.from[i])
	}
	line.from = append(line.from, r.from[len(r.text)])
	return line
}

// escapes are those of URLs and forms, of JSON and of HTML.
var escapes = regexp.MustCompile(`%[[:xdigit:]]{2}|\+|` +
	`\\u[dD][89abAB][[:xdigit:]]{2}\\u[[:xdigit:]]{4}|\\u[[:xdigit:]]{4}|\\[bfnrt"/\\]|&#?[[:alnum:]]+;?`)

// unescape resolves one level of escapes. Without any it returns r.
func (r *reading) unescape() *reading {
	found := escapes.FindAllIndex(r.text, -1)
	if found == nil {
		return r
	}
	plain, done := &reading{}, 0
	keep := func(end int) {
		plain.text = append(plain.text, r.text[done:end]...)
		plain.from = append(plain.from, r.from[done:end]...)
	}
	for _, at := range found {
		keep(at[0])
		plain.add(meaning(string(r.text[at[0]:at[1]])), r.from[at[0]])
		done = at[1]
	}
	keep(len(r.text))
	plain.from = append(plain.from, r.from[len(r.text)])
	return plain
}

// meaning is what an escape stands for. The pattern lets none through that cannot
// be resolved.
func meaning(escape string) (text string) {
	switch escape[0] {
	case '&':
		text = html.UnescapeString(escape)
	case '\\':
		_ = json.Unmarshal([]byte(`"`+escape+`"`), &text)
	default:
		text, _ = url.QueryUnescape(escape)
	}
	return text
}

// masker hides secrets in what strangers say.
type masker struct{ secrets []string }

func newMasker(secrets []string) *masker {
	m := &masker{}
	for _, secret := range secrets {
		r := read(secret)
		for _, form := range []string{r.fold().String(), r.unescape().fold().String()} {
			if len(form) >= minSecret && !slices.Contains(m.secrets, form) {
				m.secrets = append(m.secrets, form)
			}
		}
	}
	return m
}

// clean does what the function of this name does, and hides the secrets.
func (m *masker) clean(s string) string { return clean(m.hide(s)) }

// hide hides the secrets in whatever white space and escapes the text has them.
func (m *masker) hide(s string) string {
	secret := make([]bool, len(s))
	r := read(s)
	for range 1 + maxEscapes {
		m.mark(secret, r.fold())
		plain := r.unescape()
		if plain == r {
			break
		}
		r = plain
	}
	var shown strings.Builder
	for i := range len(s) {
		switch {
		case !secret[i]:
			shown.WriteByte(s[i])
		case i == 0 || !secret[i-1]:
			shown.WriteString(mask)
		}
	}
	return shown.String()
}

// mark says of which bytes the secrets in the line were made.
func (m *masker) mark(secret []bool, line *reading) {
	text := line.String()
	for _, s := range m.secrets {
		for end := 0; ; {
			at := strings.Index(text[end:], s)
			if at < 0 {
				break
			}
			at += end
			end = at + len(s)
			// An escape may stand for more than the last letter of the secret.
			for end < len(text) && line.from[end] == line.from[end-1] {
				end++
			}
			for i := line.from[at]; i < line.from[end]; i++ {
				secret[i] = true
			}
		}
	}
}
