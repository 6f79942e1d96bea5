// Package redact masks secrets in text: what an issuer marks as its credential,
// what is written after a name such as password, and what gives access by its
// form, such as a URL with a password or a private key. It is pure. The same
// text gives the same result, a result goes through unchanged, and the time is
// linear in the length of the text.
package redact

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Finding says how many secrets of one kind were masked.
type Finding struct {
	Kind  string
	Count int
}

// markPrefix and a kind make up what stands in a secret's place. The whole is one
// word of letters and a hyphen, so that it needs no escape in a URL, in Markdown,
// in JSON or in a shell.
const markPrefix = "REDACTED-"

// Text returns s with a mark such as REDACTED-Password in the place of each
// secret, and what was masked, by kind in order of the alphabet. Valid UTF-8
// stays valid.
func Text(s string) (string, []Finding) {
	spans := find(s)
	if len(spans) == 0 {
		return s, nil
	}
	var b strings.Builder
	counts := map[string]int{}
	end := 0
	for _, p := range spans {
		b.WriteString(s[end:p.start])
		b.WriteString(markPrefix + p.kind)
		counts[p.kind]++
		end = p.end
	}
	b.WriteString(s[end:])
	var found []Finding
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		found = append(found, Finding{Kind: kind, Count: counts[kind]})
	}
	return b.String(), found
}

// Named masks the value of something that has a name, such as a field. All of the
// value is masked where the name says that it is a secret.
func Named(name, value string) (string, []Finding) {
	if k, ok := secretName(name); ok && !isMark(value) && !k.keeps(value, false) {
		return markPrefix + k.kind, []Finding{{Kind: k.kind, Count: 1}}
	}
	return Text(value)
}

// Whole masks all of s where there is a secret in it. It is for text that means
// nothing in part, and may not grow beyond the length of a mark.
func Whole(s string) (string, []Finding) {
	_, found := Text(s)
	if len(found) == 0 {
		return s, nil
	}
	return markPrefix + found[0].Kind, found
}

// span is a secret in a text, in bytes. Of two that overlap, the one of the lower
// rank names the kind.
type span struct {
	start, end int
	kind       string
	rank       int
}

// find returns the secrets in s in order, none of which overlaps another.
func find(s string) []span {
	marks := marksIn(s)
	text := s
	if len(marks) > 0 {
		// Marks are letters to all that looks for secrets, and say nothing.
		b := []byte(s)
		for _, m := range marks {
			for i := m.start; i < m.end; i++ {
				b[i] = 'x'
			}
		}
		text = string(b)
	}
	var all []span
	low := lower(text)
	for _, p := range slices.Concat(issued(text), formed(text, low), assigned(text, low)) {
		if !touches(p, marks) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.rank, b.rank), cmp.Compare(b.end, a.end))
	})
	merged := all[:0]
	for _, p := range all {
		last := len(merged) - 1
		if last < 0 || p.start >= merged[last].end {
			merged = append(merged, p)
			continue
		}
		m := &merged[last]
		m.end = max(m.end, p.end)
		if p.rank < m.rank {
			m.kind, m.rank = p.kind, p.rank
		}
	}
	return merged
}

// marksIn returns the marks that are in s already.
func marksIn(s string) (marks []span) {
	for at := 0; ; {
		i := strings.Index(s[at:], markPrefix)
		if i < 0 {
			return marks
		}
		start := at + i
		at = start + len(markPrefix)
		end := at
		for _, kind := range kinds {
			if strings.HasPrefix(s[at:], kind) {
				end = max(end, at+len(kind)) // one kind's name can begin with another's
			}
		}
		if end > at {
			marks = append(marks, span{start: start, end: end})
			at = end
		}
	}
}

func isMark(s string) bool {
	marks := marksIn(s)
	return len(marks) == 1 && marks[0].start == 0 && marks[0].end == len(s)
}

func touches(p span, marks []span) bool {
	i, _ := slices.BinarySearchFunc(marks, p.start, func(m span, start int) int {
		if m.end <= start {
			return -1
		}
		return 1
	})
	return i < len(marks) && marks[i].start < p.end
}

// lower writes ASCII in lower case. The result is as long as s.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// kinds are all names of kinds.
var kinds = func() []string {
	set := map[string]bool{}
	for _, t := range tokens {
		set[t.kind] = true
	}
	for _, f := range forms {
		set[f.kind] = true
	}
	for _, k := range keywords {
		set[k.kind] = true
	}
	set[privateKey], set[pemBlock] = true, true
	return slices.Sorted(maps.Keys(set))
}()
