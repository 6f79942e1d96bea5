package delivery

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// delimiters stand around a piece of text in one style.
type delimiters struct{ open, end string }

// fence stands around a block of code.
var fence = delimiters{"```\n", "\n```"}

// lineMarks are what begins a list, a quote or a heading in Markdown.
var lineMarks = regexp.MustCompile(`(?m)^([ \t]*[0-9]*)([-+#>.)])`)

func escapeLines(s string) string { return lineMarks.ReplaceAllString(s, `$1\$2`) }

// dialect is how a channel writes formatted text.
type dialect struct {
	bold, italic, strike, code delimiters

	bullet     string              // of a list's entry, with its space
	escape     func(string) string // of text
	escapeCode func(string) string

	// link is a link of at most limit units, or else the label, cut. The address
	// is safe.
	link func(address, label string, limit int) (text string, linked bool)
}

// maxIndent is how many levels of lists are told apart.
const maxIndent = 6

// markupWriter distributes text over sections and stops where there is no room
// left. Each section is whole by itself: what was open is ended in it and begins
// anew in the next one.
type markupWriter struct {
	dialect
	limit int // of one section, in units
	left  int // of all sections together

	sections []string
	b        []byte
	used     int
	open     []delimiters
	prefix   string // of each line
	full     bool
}

// sections renders paragraphs into texts of at most limit units each and total
// units together, and says whether something had no room.
func (d dialect) sections(all []paragraph, limit, total int) (sections []string, cut bool) {
	w := &markupWriter{dialect: d, limit: limit, left: total}
	var before paragraph
	for i, p := range all {
		p.quote = p.quote && !p.code // a quote has no block of code
		if i > 0 {
			w.between(before, p)
		}
		w.paragraph(p)
		before = p
	}
	w.flush()
	return w.sections, w.full
}

func (w *markupWriter) between(before, p paragraph) {
	w.prefix = ""
	if before.quote && p.quote {
		w.prefix = "> "
	}
	w.put("\n"+w.prefix, nil)
	if before.depth == 0 || p.depth == 0 || !p.tight {
		w.put("\n"+w.prefix, nil)
	}
}

func (w *markupWriter) paragraph(p paragraph) {
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
		w.put(w.bullet, nil)
	case p.marker != "":
		w.put(p.marker+" ", nil)
	case p.depth > 0:
		w.put("   ", nil)
	}
	if p.code {
		if p.marker != "" {
			w.put("\n", nil)
		}
		w.text(strings.ReplaceAll(p.spans[0].text, "```", "ˋˋˋ"), []delimiters{fence}, "\n")
		return
	}
	for _, s := range p.spans {
		w.span(s)
	}
}

func (w *markupWriter) span(s span) {
	var style []delimiters
	for _, d := range []struct {
		is bool
		delimiters
	}{{s.bold, w.bold}, {s.italic, w.italic}, {s.strike, w.strike}, {s.code && s.url == "", w.code}} {
		if d.is {
			style = append(style, d.delimiters)
		}
	}
	switch {
	case s.url != "":
		link, _ := w.link(s.url, s.text, w.limit-maxAround)
		w.put(link, style)
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
func (w *markupWriter) text(s string, style []delimiters, lineBreak string) {
	fenced, escape := slices.Contains(style, fence), w.escape
	if fenced || slices.Contains(style, w.code) {
		escape = w.escapeCode
	}
	for line := range strings.Lines(s) {
		line, ended := strings.CutSuffix(line, "\n")
		if fenced && units(line) < longWord {
			w.put(escape(line), style)
			line = ""
		}
		for word := range strings.SplitAfterSeq(line, " ") {
			if units(word) < longWord {
				w.put(escape(word), style)
				continue
			}
			for c := range characters(word) {
				w.put(escape(c), style)
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

// put writes a piece that is never divided. It goes to the next section where this
// one has no room for it and for the ends of what is open then.
func (w *markupWriter) put(piece string, style []delimiters) {
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
func (w *markupWriter) transition(piece string, style []delimiters) (keep int, begin []delimiters) {
	blank := strings.Trim(piece, " ") == "" && !slices.Contains(style, fence)
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
func (w *markupWriter) cost(piece string, begin []delimiters) int {
	n := units(piece)
	for _, d := range w.open {
		n += units(d.end)
	}
	for _, d := range begin {
		n += units(d.open) + units(d.end)
	}
	return n
}

func (w *markupWriter) write(s string) {
	w.b = append(w.b, s...)
	w.used += units(s)
	w.left -= units(s)
}

// end ends what is open but the first ones. A delimiter after a space is taken for
// a character, so that spaces go behind it.
func (w *markupWriter) end(keep int) {
	if len(w.open) > keep && w.open[len(w.open)-1] != fence {
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

func (w *markupWriter) flush() {
	w.end(0)
	// A text of nothing but white space would be refused.
	if text := strings.TrimRight(string(w.b), " \t\n"); strings.Trim(text, " \t\n>") != "" {
		w.sections = append(w.sections, text)
	}
	w.b = nil
	w.used = 0
}

// cutNote says that a body was cut and where there is more, in at most limit
// units.
func (d dialect) cutNote(m *Message, provider string, limit int) string {
	note := d.italic.open + cutNote(m, provider, d.escape) + d.italic.end
	for _, l := range m.Links {
		if address := safeURL(l.URL); address != "" {
			if link, ok := d.link(address, oneLine(l.Label), limit-units(note)-1); ok {
				return note + " " + link
			}
		}
	}
	return note
}

// linkList has a line for each link, as many as there is room for. What is no
// link that may be opened is told in at most limit units.
func (d dialect) linkList(links []Link, limit, total int) string {
	var b strings.Builder
	leftOut := func(n int) string { return fmt.Sprintf("%sLeft out: %d%s", d.italic.open, n, d.italic.end) }
	left, omitted := total-units("\n"+leftOut(len(links))), 0
	for _, l := range links {
		line, ok := fit(oneLine(strings.TrimSpace(l.Label+" "+l.URL)), limit, d.escape), true
		if address := safeURL(l.URL); address != "" {
			line, ok = d.link(address, oneLine(l.Label), left-1)
		}
		switch {
		case line == "":
		case !ok || units(line)+1 > left:
			omitted++
		default:
			left -= units(line) + 1
			b.WriteString(line + "\n")
		}
	}
	if omitted > 0 {
		b.WriteString(leftOut(omitted))
	}
	return strings.TrimSuffix(b.String(), "\n")
}
