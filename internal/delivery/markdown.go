package delivery

import (
	"bufio"
	"bytes"
	"fmt"
	"html"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	goldmarkhtml "github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// maxMarkdown is how much of a Markdown text is looked at, in characters. Nested
// quotes and lists take time by the square of their number.
const maxMarkdown = 16 << 10

// span is a run of text in one style.
type span struct {
	text                       string // without markup; it may have line feeds
	bold, italic, strike, code bool
	url                        string // of a link: safe as safeURL has it; empty: no link
}

// paragraph is what begins on a line of its own. A body of several is a flat list
// of them, so that a channel renders and cuts one after the other.
type paragraph struct {
	spans []span
	code  bool // a block of code: one span
	quote bool

	depth  int    // of the list that it is in; 0: none
	marker string // "-" or "2." on the first paragraph of a list's entry
	tight  bool   // no empty line between it and the list's paragraph before
}

var markdown = goldmark.New(goldmark.WithExtensions(extension.Strikethrough, extension.Linkify)).Parser()

// paragraphs returns the body of a message, and whether there is more of it than
// is looked at. What no channel could show is gone: control characters, and those
// that reorder the text around them.
func paragraphs(m *Message) (all []paragraph, more bool) {
	// Spaces at the beginning can be those of a block of code.
	body := strings.TrimRight(strings.TrimLeft(printable(m.Body), "\n"), " \t\n")
	if body == "" {
		return nil, false
	}
	if m.BodyFormat != "Markdown" {
		return []paragraph{{spans: []span{{text: body}}}}, false
	}
	n := 0
	for i := range body {
		if n == maxMarkdown {
			body, more = body[:i], true
			break
		}
		n++
	}
	r := &markdownReader{source: []byte(body)}
	r.blocks(markdown.Parse(text.NewReader(r.source)), place{})
	return r.all, more
}

// plainBody returns the body of a message for what shows plain text alone. Where a
// Markdown body is longer than is looked at, that is all of it as it was written.
func plainBody(m *Message) string {
	all, more := paragraphs(m)
	if more {
		return printable(m.Body)
	}
	return plainParagraphs(all)
}

// plainParagraphs renders paragraphs for what shows plain text alone.
func plainParagraphs(all []paragraph) string {
	var b strings.Builder
	for i, p := range all {
		if i > 0 {
			b.WriteString("\n")
			if all[i-1].depth == 0 || p.depth == 0 || !p.tight {
				b.WriteString("\n")
			}
		}
		plainParagraph(&b, p)
	}
	return b.String()
}

// plainParagraph writes a paragraph, with what is needed before each of its lines.
func plainParagraph(b *strings.Builder, p paragraph) {
	indent := strings.Repeat("  ", min(max(p.depth-1, 0), maxIndent))
	if p.quote {
		indent = "> " + indent
	}
	first, next := indent, indent
	switch {
	case p.marker != "":
		first, next = indent+p.marker+" ", indent+"  "
	case p.depth > 0:
		first, next = indent+"  ", indent+"  "
	}
	if p.code {
		first, next = first+"    ", next+"    "
	}
	var text strings.Builder
	for i, s := range p.spans {
		text.WriteString(s.text)
		if i+1 < len(p.spans) && p.spans[i+1].url == s.url {
			continue // the label goes on in another style
		}
		if s.url != "" && s.url != s.text && s.url != "mailto:"+s.text {
			text.WriteString(" <" + s.url + ">")
		}
	}
	b.WriteString(first + strings.ReplaceAll(text.String(), "\n", "\n"+next))
}

// place is where in a text a block stands.
type place struct {
	quote  bool
	depth  int
	tight  bool
	marker *string // for the first paragraph to take
}

type markdownReader struct {
	source []byte
	all    []paragraph
}

func (r *markdownReader) add(at place, p paragraph) {
	p.quote, p.depth, p.tight = at.quote, at.depth, at.tight
	if at.marker != nil {
		p.marker, *at.marker = *at.marker, ""
	}
	r.all = append(r.all, p)
}

func (r *markdownReader) blocks(parent ast.Node, at place) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		switch n := n.(type) {
		case *ast.Paragraph, *ast.TextBlock:
			r.add(at, paragraph{spans: r.inline(nil, n, span{})})
		case *ast.Heading:
			r.add(at, paragraph{spans: r.inline(nil, n, span{bold: true})})
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			r.add(at, paragraph{code: true, spans: []span{{text: r.lines(n)}}})
		case *ast.HTMLBlock:
			source := string(n.Lines().Value(r.source))
			if n.HasClosure() {
				source += string(n.ClosureLine.Value(r.source))
			}
			r.add(at, paragraph{spans: []span{{text: strings.TrimSpace(source)}}})
		case *ast.ThematicBreak:
			r.add(at, paragraph{spans: []span{{text: "———"}}})
		case *ast.Blockquote:
			within := at
			within.quote = true
			r.blocks(n, within)
		case *ast.List:
			r.list(n, at)
		default:
			r.blocks(n, at)
		}
	}
}

func (r *markdownReader) list(list *ast.List, at place) {
	number := list.Start
	for entry := list.FirstChild(); entry != nil; entry = entry.NextSibling() {
		marker := "-"
		if list.IsOrdered() {
			marker = fmt.Sprintf("%d.", number)
			number++
		}
		first := at.depth == 0 && entry == list.FirstChild()
		within := place{quote: at.quote, depth: at.depth + 1, tight: list.IsTight && !first, marker: &marker}
		r.blocks(entry, within)
		if marker != "" {
			r.add(within, paragraph{}) // an empty entry
		}
	}
}

func (r *markdownReader) lines(n ast.Node) string {
	return strings.TrimRight(string(n.Lines().Value(r.source)), "\n")
}

// inline appends what is within a node, in its style.
func (r *markdownReader) inline(spans []span, parent ast.Node, style span) []span {
	add := func(text string, style span) {
		style.text = text
		spans = appendSpan(spans, style)
	}
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		within := style
		switch n := n.(type) {
		case *ast.Text:
			add(r.text(n), style)
		case *ast.String:
			add(string(n.Value), style)
		case *ast.RawHTML:
			add(string(n.Segments.Value(r.source)), style)
		case *ast.CodeSpan:
			within.code = true
			var source strings.Builder
			for c := n.FirstChild(); c != nil; c = c.NextSibling() {
				if t, ok := c.(*ast.Text); ok {
					source.Write(t.Segment.Value(r.source))
				}
			}
			add(strings.ReplaceAll(source.String(), "\n", " "), within)
		case *ast.Emphasis:
			within.italic = style.italic || n.Level == 1
			within.bold = style.bold || n.Level > 1
			spans = r.inline(spans, n, within)
		case *extast.Strikethrough:
			within.strike = true
			spans = r.inline(spans, n, within)
		case *ast.AutoLink:
			address := string(n.URL(r.source))
			if n.AutoLinkType == ast.AutoLinkEmail && !strings.HasPrefix(strings.ToLower(address), "mailto:") {
				address = "mailto:" + address
			}
			within.url = safeURL(address)
			add(string(n.Label(r.source)), within)
		case *ast.Link:
			spans = r.link(spans, n, n.Destination, style)
		case *ast.Image:
			spans = r.link(spans, n, n.Destination, style)
		default:
			spans = r.inline(spans, n, style)
		}
	}
	return spans
}

// link appends a link, or an image, which no channel is made to load. Where its
// address is not one to be opened, it is told in words.
func (r *markdownReader) link(spans []span, n ast.Node, destination []byte, style span) []span {
	address := oneLine(html.UnescapeString(string(util.UnescapePunctuations(destination))))
	within := style
	within.url = safeURL(address)
	before := len(spans)
	spans = r.inline(spans, n, within)
	switch {
	case within.url != "" && len(spans) == before:
		within.text = within.url
		spans = append(spans, within)
	case within.url == "" && address != "":
		style.text = " (" + address + ")"
		spans = appendSpan(spans, style)
	}
	return spans
}

// text resolves a text's escapes and entities as goldmark's own renderer does.
func (r *markdownReader) text(n *ast.Text) string {
	value := n.Segment.Value(r.source)
	if !n.IsRaw() {
		var resolved bytes.Buffer
		w := bufio.NewWriter(&resolved)
		goldmarkhtml.DefaultWriter.Write(w, value)
		_ = w.Flush() // a buffer takes all
		value = []byte(printable(html.UnescapeString(resolved.String())))
	}
	if n.SoftLineBreak() || n.HardLineBreak() {
		return string(value) + "\n"
	}
	return string(value)
}

// appendSpan joins neighbours of the same style.
func appendSpan(spans []span, s span) []span {
	if s.text == "" {
		return spans
	}
	if len(spans) > 0 {
		last := &spans[len(spans)-1]
		style := *last
		style.text = s.text
		if style == s {
			last.text += s.text
			return spans
		}
	}
	return append(spans, s)
}

// safeURL returns an address that a person may be led to, or nothing: absolute,
// and with no character in it by which a channel could take it for something else.
func safeURL(address string) string {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return ""
	}
	switch strings.ToLower(u.Scheme) {
	case "http", "https":
		if u.Host == "" {
			return ""
		}
	case "mailto":
		if u.Opaque == "" {
			return ""
		}
	default:
		return ""
	}
	var b strings.Builder
	for rest := u.String(); rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if r <= ' ' || strings.ContainsRune("<>|\"`\\^{}", r) || hidden(r) || r == utf8.RuneError {
			for _, c := range []byte(rest[:size]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		} else {
			b.WriteString(rest[:size])
		}
		rest = rest[size:]
	}
	return b.String()
}
