package delivery

import (
	"fmt"
	"html"
	"maps"
	"slices"
	"strings"
)

// emailFields returns the fields of a message, sorted by name.
func emailFields(m *Message) (fields []fact) {
	for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
		label := oneLine(name)
		if label == "" {
			label = "-"
		}
		fields = append(fields, fact{label, strings.TrimSpace(printable(m.Fields[name]))})
	}
	return fields
}

// emailLink returns where a link leads, empty where nobody is to be led there, and
// what is shown of it.
func emailLink(l Link) (address, label string) {
	address, label = safeURL(l.URL), oneLine(l.Label)
	switch {
	case address == "":
		label = oneLine(label + " " + l.URL)
	case label == "":
		label = address
	}
	return address, label
}

// emailCutNote says that a body was cut.
func emailCutNote(m *Message) string {
	return fmt.Sprintf("Cut here: all of it is in the NotificationRequest %s/%s.", oneLine(m.Namespace), oneLine(m.Name))
}

// emailText renders a message for programs that show no HTML.
func emailText(m *Message) string {
	var b strings.Builder
	all, more := paragraphs(m)
	if len(all) > 0 {
		b.WriteString(plainParagraphs(all) + "\n")
	}
	if more {
		b.WriteString("\n" + emailCutNote(m) + "\n")
	}
	fields, rest := emailFields(m), facts(m)
	section := func(lines []string) {
		if len(lines) > 0 {
			b.WriteString("\n" + strings.Join(lines, "\n") + "\n")
		}
	}
	var lines []string
	for _, f := range fields {
		lines = append(lines, f.name+": "+strings.ReplaceAll(f.value, "\n", "\n  "))
	}
	section(lines)
	lines = nil
	for _, l := range m.Links {
		switch address, label := emailLink(l); {
		case address != "" && address != label:
			lines = append(lines, label+": "+address)
		case label != "":
			lines = append(lines, label)
		}
	}
	section(lines)
	lines = nil
	for _, f := range rest {
		lines = append(lines, f.name+": "+f.value)
	}
	if len(lines) > 0 {
		section(append([]string{"--"}, lines...))
	}
	return strings.TrimLeft(b.String(), "\n")
}

// Colours and fonts are left to the program that shows the mail.
const (
	htmlHead = "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>%s</title></head><body>\n<h2>%s</h2>\n"
	htmlEnd  = "</body></html>\n"
)

// emailHTML renders a message as HTML. Nothing in it is loaded from anywhere, and
// what a message says is text or a link to an address that is safe to follow.
func emailHTML(m *Message) string {
	var b strings.Builder
	subject := html.EscapeString(emailSubject(m))
	fmt.Fprintf(&b, htmlHead, subject, subject)
	all, more := paragraphs(m)
	for _, p := range all {
		htmlParagraph(&b, p, m.BodyFormat != "Markdown")
	}
	if more {
		b.WriteString("<p><i>" + html.EscapeString(emailCutNote(m)) + "</i></p>\n")
	}
	fields, rest := emailFields(m), facts(m)
	htmlTable(&b, fields)
	for _, l := range m.Links {
		address, label := emailLink(l)
		switch text := html.EscapeString(label); {
		case address != "":
			b.WriteString("<p>" + htmlLink(address, text) + "</p>\n")
		case text != "":
			b.WriteString("<p>" + text + "</p>\n")
		}
	}
	if len(rest) > 0 {
		b.WriteString("<hr>\n<small>\n")
		htmlTable(&b, rest)
		b.WriteString("</small>\n")
	}
	return b.String() + htmlEnd
}

func htmlTable(b *strings.Builder, rows []fact) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("<table>\n")
	for _, f := range rows {
		fmt.Fprintf(b, "<tr><th align=\"left\" valign=\"top\">%s</th><td>%s</td></tr>\n", html.EscapeString(f.name), htmlLines(f.value))
	}
	b.WriteString("</table>\n")
}

// htmlParagraph writes a paragraph. Lists are paragraphs further to the right, as
// they are in the other channels.
func htmlParagraph(b *strings.Builder, p paragraph, asWritten bool) {
	open, end := "<p>", "</p>"
	switch {
	case asWritten:
		open, end = `<pre style="font-family:inherit;white-space:pre-wrap">`, "</pre>"
	case p.depth > 0:
		open = fmt.Sprintf(`<p style="margin:0.3em 0 0.3em %dem">`, 2*min(p.depth, maxIndent))
	}
	if p.code {
		open, end = strings.Replace(strings.Replace(open, "<p>", "<pre>", 1), "<p ", "<pre ", 1), "</pre>"
	}
	if p.quote {
		open, end = "<blockquote>"+open, end+"</blockquote>"
	}
	b.WriteString(open)
	switch {
	case p.marker == "-":
		b.WriteString("&bull; ")
	case p.marker != "":
		b.WriteString(html.EscapeString(p.marker) + " ")
	}
	for _, s := range p.spans {
		if p.code || asWritten {
			b.WriteString(html.EscapeString(s.text))
			continue
		}
		b.WriteString(htmlSpan(s))
	}
	b.WriteString(end + "\n")
}

func htmlSpan(s span) string {
	text := htmlLines(s.text)
	for _, style := range []struct {
		is   bool
		name string
	}{{s.code, "code"}, {s.strike, "s"}, {s.italic, "i"}, {s.bold, "b"}} {
		if style.is {
			text = "<" + style.name + ">" + text + "</" + style.name + ">"
		}
	}
	if s.url != "" {
		return htmlLink(s.url, text)
	}
	return text
}

// htmlLink leads to a safe address. The label is HTML.
func htmlLink(address, label string) string {
	return `<a href="` + html.EscapeString(address) + `">` + label + "</a>"
}

func htmlLines(s string) string { return strings.ReplaceAll(html.EscapeString(s), "\n", "<br>\n") }
