package delivery

import (
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
	s = strings.Map(func(r rune) rune {
		if hidden(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	return cut(strings.Join(strings.Fields(s), " "), maxText)
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

// newMasker returns a replacer that hides the secrets, also where a text quotes
// them with URL escapes.
func newMasker(secrets []string) *strings.Replacer {
	var all []string
	for _, s := range secrets {
		for _, form := range []string{s, strings.TrimSpace(s), url.QueryEscape(s), url.PathEscape(s)} {
			if len(form) >= minSecret {
				all = append(all, form)
			}
		}
	}
	// A replacer takes the first match in the order given: the longest secret
	// has to come before those that are part of it.
	slices.SortFunc(all, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	var pairs []string
	for _, s := range slices.Compact(all) {
		pairs = append(pairs, s, mask)
	}
	return strings.NewReplacer(pairs...)
}
