package redact

import (
	"regexp"
	"slices"
	"strings"
)

// keyword is the end of a name whose value is a secret. Names go on before it, as
// in DB_PASSWORD, but not after it: a passwordFile or a secretName is none.
type keyword struct {
	kind string
	word string // in lower case
	// before has what must stand before the word, where it alone says too little.
	before *regexp.Regexp
	// strict names are given to secrets alone; the values of others have to look
	// like one.
	strict bool
	// named values may be the names of objects instead.
	named bool
}

// The words are those that detect-secrets' KeywordDetector, gitleaks' generic rule
// and GitHub's generic patterns agree on.
var keywords = []keyword{
	{kind: "Password", word: "password", strict: true},
	{kind: "Password", word: "passwd", strict: true},
	{kind: "Password", word: "passphrase", strict: true},
	{kind: "Password", word: "passcode", strict: true},
	{kind: "Password", word: "pwd", strict: true},
	{kind: "Password", word: "pass", before: regexp.MustCompile(`(?:^|[^a-z])$`)},
	{kind: "Secret", word: "secret", named: true},
	{kind: "Credentials", word: "credentials", named: true},
	{kind: "Credentials", word: "credential", named: true},
	{kind: "Token", word: "token"},
	{kind: "SecretKey", word: "key", before: regexp.MustCompile(
		`(?:api|access|secret|private|signing|encryption|account|auth|master|license|webhook)[-_. ]?$`)},
}

// separator is what may stand between a name and its value: a sign, the end of a
// cell, or the word that says what the value is. Markup may close before it.
var separator = regexp.MustCompile("^[\"'`*_~\\\\\\])}]{0,4}(?:" +
	`[ \t]{0,32}(?:=>|:=|={1,3}|:)[ \t]{0,32}` +
	`|[ \t]{0,32}\|[ \t]{0,32}` +
	`|[ \t]{1,4}(?:is|was)[ \t:]{1,4}` +
	`|\s{0,4},?\s{0,64}\\{0,2}["']?[vV]alue\\{0,2}["']?[ \t]{0,4}[:=][ \t]{0,4}` +
	`|>)` +
	"(?:[*_~]{1,3}[ \\t]{0,4})?(?:</?\\w{1,8}>[ \\t]{0,4})?")

// argument is what may stand there where the name is a flag's, or SQL's.
var (
	argument = regexp.MustCompile(`^[ \t]{1,8}`)
	quoted   = regexp.MustCompile("^[ \\t]{1,4}[\"'`]")
)

// assigned finds the values of names that say that they are secrets.
func assigned(s, low string) (all []span) {
	for _, k := range keywords {
		eol := -1 // where the line ends that was looked at last
		for at := 0; ; {
			i := strings.Index(low[at:], k.word)
			if i < 0 {
				break
			}
			start := at + i
			at = start + len(k.word)
			if k.before != nil && !k.before.MatchString(low[max(0, start-16):start]) {
				continue
			}
			if eol < at {
				if eol = strings.IndexByte(s[at:], '\n'); eol < 0 {
					eol = len(s) - at
				}
				eol += at
			}
			if p, ok := k.value(s, start, at, eol); ok {
				all = append(all, p)
				at = p.end
			}
		}
	}
	return all
}

// value finds the value of a name whose keyword is at s[start:end], in a line that
// ends at eol. The value of an entry with a name and a value can be in the next.
func (k keyword) value(s string, start, end, eol int) (span, bool) {
	window := s[end:min(len(s), end+128)]
	name := start
	for name > 0 && word[s[name-1]] && start-name < 64 {
		name--
	}
	sign := separator.FindString(window)
	if sign == "" {
		switch {
		case strings.HasPrefix(s[name:], "--"):
			sign = argument.FindString(window)
		case k.strict:
			if sign = quoted.FindString(window); sign != "" {
				sign = sign[:len(sign)-1]
			}
		}
		if sign == "" {
			return span{}, false
		}
	}
	from := end + len(sign)
	if from > eol {
		line, _, _ := strings.Cut(s[from:], "\n")
		eol = from + len(line)
	}
	inURL := name > 0 && strings.IndexByte("?&#", s[name-1]) >= 0
	var p span
	switch {
	case k.word == "passphrase" && !inURL && !opensQuote(s[from:]):
		p = span{start: from, end: from + len(strings.TrimRight(s[from:eol], " \t\r*_`"))}
	default:
		p.start, p.end = extent(s[:eol], from, inURL)
	}
	p.kind, p.rank = k.kind, len(forms)+1
	prose := strings.HasSuffix(strings.TrimRight(sign, " \t"), "is") || strings.HasSuffix(strings.TrimRight(sign, " \t"), "was")
	value := s[p.start:p.end]
	if value == "" || prose && !mixed(value) || k.keeps(value, strings.Contains(sign, "=")) {
		return span{}, false
	}
	return p, true
}

func opensQuote(s string) bool {
	return strings.HasPrefix(s, `"`) || strings.HasPrefix(s, "'") || strings.HasPrefix(s, "`") || strings.HasPrefix(s, `\"`)
}

// extent returns where the value is that begins at from, in what is left of its
// line: what is between quotes, or else a word.
func extent(s string, from int, inURL bool) (start, end int) {
	rest := s[from:]
	for _, quote := range []string{`\"`, `"`, "'", "`"} {
		if !strings.HasPrefix(rest, quote) {
			continue
		}
		start = from + len(quote)
		if n := closing(rest[len(quote):], quote); n >= 0 {
			return start, start + n
		}
		from, rest = start, rest[len(quote):]
		break
	}
	return from, from + bare(rest, inURL)
}

// closing returns where a quoted text ends, -1 where it does not.
func closing(s, quote string) int {
	if quote == `\"` {
		return strings.Index(s, quote)
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case quote[0]:
			return i
		}
	}
	return -1
}

// bare returns the length of a value without quotes. What ends it and may be part
// of it too ends it where what follows shows that it does.
func bare(s string, inURL bool) int {
	end := len(s)
scan:
	for i := range len(s) {
		next := byte(' ')
		if i+1 < len(s) {
			next = s[i+1]
		}
		switch c := s[i]; c {
		case ' ', '\t', '\r', ';', '<':
			end = i
			break scan
		case '&', '#':
			if inURL {
				end = i
				break scan
			}
		case '"', '\'', '`':
			if !alnum[next] {
				end = i
				break scan
			}
		case '\\':
			if next == '"' || next == 'n' {
				end = i
				break scan
			}
		case ',':
			if !alnum[next] || pair.MatchString(s[i+1:min(len(s), i+66)]) {
				end = i
				break scan
			}
		}
	}
	value := s[:end]
	for _, mark := range []string{"**", "__", "~~", "|"} {
		value = strings.TrimSuffix(value, mark)
	}
	for _, brackets := range []string{"()", "[]", "{}"} {
		if !strings.Contains(value, brackets[:1]) {
			value = strings.TrimRight(value, brackets[1:])
		}
	}
	return len(value)
}

// pair is the beginning of another name and value.
var pair = regexp.MustCompile(`^[\w.-]{1,64}[=:]`)

// secretName finds the keyword that a whole name ends with.
func secretName(name string) (keyword, bool) {
	name = strings.TrimRight(lower(name), " :=")
	for _, k := range keywords {
		if before, ok := strings.CutSuffix(name, k.word); ok && (k.before == nil || k.before.MatchString(before)) {
			return k, true
		}
	}
	return keyword{}, false
}

// keeps reports whether a value stays although its name is a secret's.
func (k keyword) keeps(value string, equals bool) bool {
	switch {
	case placeholder(value):
		return true
	case k.strict:
		return false
	case k.named && !equals && objectName(value):
		return true
	}
	return !random(value)
}

// random reports whether a value may be one that was drawn, and is no number,
// duration, word or sentence.
func random(s string) bool {
	if len(s) < 6 || strings.ContainsAny(s, " \t") || duration.MatchString(s) {
		return false
	}
	return mixed(s) || len(s) >= 16
}

var (
	duration = regexp.MustCompile(`^(?:\d+(?:ms|[smhd]))+$`)
	path     = regexp.MustCompile(`^(?:~|\.{0,2})/[a-z0-9._-]+(?:/[a-z0-9._-]+)*/?$`)
	variable = regexp.MustCompile(`^(?:\$\w+|%\w+%|\$[({].*|\{\{.*|%\(.*|<[^<>]*>|\[[^\[\]]*\])$`)
	object   = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?:/[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)?$`)
)

// objectName reports whether a value may be the name of a Kubernetes object: what
// is put at the end of generated names has at most ten characters.
func objectName(s string) bool {
	if len(s) > 253 || !object.MatchString(s) {
		return false
	}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-./", r) }) {
		if len(part) > 24 || len(part) > 10 && mixed(part) {
			return false
		}
	}
	return true
}

// placeholder reports whether a value stands for a secret or says something about
// one, and is none.
func placeholder(s string) bool {
	s = strings.Trim(s, " \t.,:!?*_~")
	if !slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 || alnum[c] }) {
		return true
	}
	if len(s) <= 3 && in(digits)(s) || len(s) >= 3 && strings.Trim(s, "xX*.-") == "" || strings.HasPrefix(s, "//") {
		return true
	}
	// The bound keeps the time linear where each of many names has a long value.
	return len(s) <= 256 && (words[lower(s)] || path.MatchString(s) || variable.MatchString(s))
}

// words are those that stand after a secret's name in sentences, tables of state
// and templates.
var words = func() map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(`a accepted all an and are authentication because been by can cannot changed could
		denied disabled does empty enabled encrypted error expired expires expiry failed failure false for from generated
		has have hidden if in incorrect invalid is it keep manager managed mask masked may mismatch missing must
		needs never nil no none not null of ok on optional or please policy provided redacted rejected required reset
		rotated rotation secret set should string the this to true undefined unknown unset updated using valid
		value was were which will with wrong yes you your`) {
		set[w] = true
	}
	return set
}()
