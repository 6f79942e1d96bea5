package delivery

import (
	"bytes"
	"slices"
	"strings"
)

// mrkdwn is how Slack writes formatted text. Of the characters that it gives a
// meaning, these three alone can be escaped; no mention is left without them.
var mrkdwnEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func escapeMrkdwn(s string) string { return mrkdwnEscapes.Replace(s) }

// delimiters stand around a piece of text in one style.
type delimiters struct{ open, end string }

var (
	slackBold   = delimiters{"*", "*"}
	slackItalic = delimiters{"_", "_"}
	slackStrike = delimiters{"~", "~"}
	slackCode   = delimiters{"`", "`"}
	slackFence  = delimiters{"```\n", "\n```"}
)

// maxIndent is how many levels of lists are told apart.
const maxIndent = 6

// slackWriter distributes text over sections and stops where there is no room
// left. Each section is whole by itself: what was open is ended in it and begins
// anew in the next one.
type slackWriter struct {
	limit int // of one section, in units
	left  int // of all sections together
	plain bool

	sections []string
	b        []byte
	used     int
	open     []delimiters
	prefix   string // of each line
	full     bool
}

// slackSections renders paragraphs as mrkdwn, or as they are where plain is true,
// into texts of at most limit units each and total units together, and says
// whether something had no room.
func slackSections(all []paragraph, plain bool, limit, total int) (sections []string, cut bool) {
	w := &slackWriter{limit: limit, left: total, plain: plain}
	for i, p := range all {
		if i > 0 {
			w.between(all[i-1], p)
		}
		w.paragraph(p)
	}
	w.flush()
	return w.sections, w.full
}

func (w *slackWriter) between(before, p paragraph) {
	w.prefix = ""
	if before.quote && p.quote {
		w.prefix = "> "
	}
	w.put("\n"+w.prefix, nil)
	if before.depth == 0 || p.depth == 0 || !p.tight {
		w.put("\n"+w.prefix, nil)
	}
}

func (w *slackWriter) paragraph(p paragraph) {
	if p.quote && w.prefix == "" {
		w.put("> ", nil)
	}
	w.prefix = ""
	if p.quote {
		w.prefix = "> "
	}
	if !p.code || p.marker != "" {
		w.put(strings.Repeat("    ", min(max(p.depth-1, 0), maxIndent)), nil)
	}
	switch {
	case p.code && p.marker == "":
	case p.marker == "-":
		w.put("• ", nil)
	case p.marker != "":
		w.put(p.marker+" ", nil)
	case p.depth > 0:
		w.put("   ", nil)
	}
	if p.code {
		if p.marker != "" {
			w.put("\n", nil)
		}
		w.prefix = "" // a quote has no block of code
		w.text(strings.ReplaceAll(p.spans[0].text, "```", "ˋˋˋ"), []delimiters{slackFence}, "\n")
		return
	}
	for _, s := range p.spans {
		w.span(s)
	}
}

func (w *slackWriter) span(s span) {
	var style []delimiters
	for _, d := range []struct {
		is bool
		delimiters
	}{{s.bold, slackBold}, {s.italic, slackItalic}, {s.strike, slackStrike}, {s.code && s.url == "", slackCode}} {
		if d.is {
			style = append(style, d.delimiters)
		}
	}
	switch {
	case s.url != "":
		w.put(slackLink(s.url, s.text, w.limit-maxAround), style)
	case s.code: // there is no escape for its end within it
		w.text(strings.ReplaceAll(s.text, "`", "ˋ"), style, "\n"+w.prefix)
	default:
		w.text(s.text, style, "\n"+w.prefix)
	}
}

// maxAround is ample for the delimiters of a link and the beginning of its line.
const maxAround = 100

// longWord is the shortest word that may be divided.
const longWord = 80

// text puts words, or characters where a word is long.
func (w *slackWriter) text(s string, style []delimiters, lineBreak string) {
	fenced := slices.Contains(style, slackFence)
	for line := range strings.Lines(s) {
		line, ended := strings.CutSuffix(line, "\n")
		if fenced && units(line) < longWord {
			w.put(w.escape(line), style)
			line = ""
		}
		for word := range strings.SplitAfterSeq(line, " ") {
			if units(word) < longWord {
				w.put(w.escape(word), style)
				continue
			}
			for c := range characters(word) {
				w.put(w.escape(c), style)
			}
		}
		switch {
		case ended && fenced:
			w.put(lineBreak, style)
		case ended: // no style but a block of code reaches over several lines
			w.put(lineBreak, nil)
		}
		if w.full {
			return
		}
	}
}

func (w *slackWriter) escape(s string) string {
	if w.plain {
		return s
	}
	return escapeMrkdwn(s)
}

// put writes a piece that is never divided. It goes to the next section where this
// one has no room for it and for the ends of what is open then.
func (w *slackWriter) put(piece string, style []delimiters) {
	if piece == "" || w.full || w.used == 0 && strings.HasPrefix(piece, "\n") {
		return
	}
	keep, begin := w.transition(piece, style)
	if w.cost(piece, begin)+units(w.prefix+ellipsis) > w.left {
		w.full = true
		w.write(ellipsis)
		return
	}
	if w.used+w.cost(piece, begin) > w.limit-units(ellipsis) {
		w.flush()
		w.write(w.prefix)
		if strings.HasPrefix(piece, "\n") {
			return // a section ends with a line break of its own
		}
		keep, begin = w.transition(piece, style)
	}
	if cost := w.cost(piece, begin); cost+units(ellipsis) > w.left || w.used+cost > w.limit-units(ellipsis) {
		w.full = true // what is begun anew took the rest, or the piece fits nowhere
		return
	}
	w.end(keep)
	for _, d := range begin {
		w.write(d.open)
	}
	w.open = append(w.open, begin...)
	w.write(piece)
}

// transition says how much of what is open can stay so, from the outside, and what
// has to be begun. Nothing begins with a space.
func (w *slackWriter) transition(piece string, style []delimiters) (keep int, begin []delimiters) {
	blank := strings.Trim(piece, " ") == "" && !slices.Contains(style, slackFence)
	for keep < len(w.open) && slices.Contains(style, w.open[keep]) {
		keep++
	}
	for _, d := range style {
		if !blank && !slices.Contains(w.open[:keep], d) {
			begin = append(begin, d)
		}
	}
	return keep, begin
}

// cost is what a piece takes with all delimiters, until nothing is open.
func (w *slackWriter) cost(piece string, begin []delimiters) int {
	n := units(piece)
	for _, d := range w.open {
		n += units(d.end)
	}
	for _, d := range begin {
		n += units(d.open) + units(d.end)
	}
	return n
}

func (w *slackWriter) write(s string) {
	w.b = append(w.b, s...)
	w.used += units(s)
	w.left -= units(s)
}

// end ends what is open but the first ones. Slack takes a delimiter after a space
// for a character, so that spaces go behind it.
func (w *slackWriter) end(keep int) {
	if len(w.open) > keep && w.open[len(w.open)-1] != slackFence {
		text := bytes.TrimRight(w.b, " ")
		spaces := len(w.b) - len(text)
		w.b = text
		defer func() { w.b = append(w.b, strings.Repeat(" ", spaces)...) }()
	}
	for i := len(w.open) - 1; i >= keep; i-- {
		w.write(w.open[i].end)
	}
	w.open = w.open[:keep]
}

func (w *slackWriter) flush() {
	w.end(0)
	// A text of nothing but white space would be refused.
	if text := strings.TrimRight(string(w.b), " \t\n"); strings.Trim(text, " \t\n>") != "" {
		w.sections = append(w.sections, text)
	}
	w.b = nil
	w.used = 0
}

// slackLink is a link of at most limit units: with its label cut, or else the
// label alone. The address has to be safe.
func slackLink(address, label string, limit int) string {
	address = escapeMrkdwn(address)
	label = strings.ReplaceAll(label, "\n", " ")
	room := limit - units(address) - units("<|>")
	if room < 20 {
		return fit(label, limit, escapeMrkdwn)
	}
	if strings.TrimSpace(label) == "" || escapeMrkdwn(label) == address {
		return "<" + address + ">"
	}
	return "<" + address + "|" + fit(label, room, escapeMrkdwn) + ">"
}
