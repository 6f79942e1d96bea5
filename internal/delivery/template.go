package delivery

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"
)

const (
	// maxSubject and maxBody are how many characters a request's own subject and body
	// may have. No template makes more of them.
	maxSubject = 500
	maxBody    = 32768

	// maxWork is how many bytes the functions of a template may read and write in one
	// execution: a few dozen times the longest body.
	maxWork = 8 << 20
)

// Template makes the subject and the body of a message out of the message itself,
// in the language of text/template. An empty member leaves its part as it is.
type Template struct{ Subject, Body string }

// templateData is what a template sees of a message: values without methods, so
// that all it can call are the functions of work.
type templateData struct {
	Subject, Body, Type, Priority, Severity, CorrelationID string
	Namespace, Name, Channel                               string
	Created                                                string // RFC 3339, in UTC
	Regarding                                              Reference
	Links                                                  []Link
	Fields                                                 map[string]string
}

func dataOf(m *Message) templateData {
	d := templateData{
		Subject: m.Subject, Body: m.Body, Type: m.Type, Priority: m.Priority, Severity: m.Severity, CorrelationID: m.CorrelationID,
		Namespace: m.Namespace, Name: m.Name, Channel: m.Channel, Created: instant(m.Created), Links: m.Links, Fields: m.Fields,
	}
	if m.Regarding != nil {
		d.Regarding = *m.Regarding
	}
	return d
}

// Apply returns the message with the subject and the body that the template makes
// of it; a function of the two. An error names the part that it could not make and
// has at most 256 bytes; the message that comes with it is m.
func (t Template) Apply(m *Message) (*Message, error) {
	made := *m
	for _, part := range []struct {
		name, text string
		limit      int
		to         *string
	}{{"subject", t.Subject, maxSubject, &made.Subject}, {"body", t.Body, maxBody, &made.Body}} {
		if part.text == "" {
			continue
		}
		result, err := execute(part.name, part.text, part.limit, dataOf(m))
		if err == nil && result == "" {
			err = fmt.Errorf("%s: nothing came out", part.name)
		}
		if err != nil {
			return m, shown(err)
		}
		*part.to = result
	}
	return &made, nil
}

// Check returns why the template cannot be used, or why it would fail on a message
// in which everything is set. Its error has at most 256 bytes.
func (t Template) Check() error {
	text := "text"
	sample := templateData{
		Subject: text, Body: text, Type: text, Priority: text, Severity: text, CorrelationID: text, Namespace: text, Name: text,
		Channel: text, Created: instant(time.Unix(0, 0)), Regarding: Reference{APIVersion: text, Kind: text, Namespace: text, Name: text},
		Links: make([]Link, maxLoop/2), Fields: map[string]string{text: text},
	}
	_, err := execute("subject", t.Subject, maxBody, sample)
	if err == nil {
		_, err = execute("body", t.Body, maxBody, sample)
	}
	if err != nil {
		return shown(err)
	}
	return nil
}

// execute returns what a template makes of a message, without the space around it.
func execute(name, text string, limit int, data templateData) (string, error) {
	w := &work{left: maxWork}
	t, err := template.New(name).Option("missingkey=zero").Funcs(w.functions()).Parse(text)
	if err != nil {
		return "", err
	}
	if err := inspect(t); err != nil {
		return "", err
	}
	out := &bounded{limit: limit * utf8.UTFMax}
	if err := t.Execute(out, data); errors.Is(err, errTooLong) {
		return "", tooLong(name, limit)
	} else if err != nil {
		return "", err
	}
	result := strings.TrimSpace(out.String())
	if utf8.RuneCountInString(result) > limit {
		return "", tooLong(name, limit)
	}
	return result, nil
}

// unknown is the end of an error about a name that there is not, as text/template
// and inspect have it. A text in the template may read like one.
var unknown = regexp.MustCompile(`( not defined| is not for these templates)$| in type [\w.\[\]]+$`)

// outOfRange is the end of an error about a link that the message does not have.
var outOfRange = regexp.MustCompile(`index out of range(: \d+)?$`)

func shown(err error) error {
	text := strings.TrimPrefix(err.Error(), "template: ")
	text = outOfRange.ReplaceAllString(text, "$0: the request has fewer, so ask with if or len before it")
	return errors.New(clean(unknown.ReplaceAllString(text, "$1: kubectl explain nch.spec.template lists the names")))
}

var (
	errTooLong = errors.New("too long")
	errTooMuch = fmt.Errorf("the functions have worked through more than %d MiB of text", maxWork>>20)
)

func tooLong(name string, limit int) error {
	return fmt.Errorf("%s: longer than %d characters", name, limit)
}

// bounded takes at most limit bytes.
type bounded struct {
	strings.Builder
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}

// work is what the functions of one execution may still do, in bytes.
type work struct{ left int }

func (w *work) spend(n int) error {
	if w.left -= n; w.left < 0 {
		return errTooMuch
	}
	return nil
}

// functions are those that a template may call besides the operators. The text
// that a function works on is its last argument, as pipelines pass it.
func (w *work) functions() template.FuncMap {
	return template.FuncMap{
		"upper":     w.bound(strings.ToUpper),
		"lower":     w.bound(strings.ToLower),
		"trim":      w.bound(strings.TrimSpace),
		"quote":     w.bound(strconv.Quote),
		"urlquery":  w.bound(url.QueryEscape),
		"truncate":  w.truncate,
		"replace":   w.replace,
		"join":      w.join,
		"date":      w.date,
		"contains":  func(part, text string) (bool, error) { return strings.Contains(text, part), w.spend(len(text)) },
		"hasPrefix": func(prefix, text string) bool { return strings.HasPrefix(text, prefix) },
		"hasSuffix": func(suffix, text string) bool { return strings.HasSuffix(text, suffix) },
		"default": func(instead, text string) string {
			if text == "" {
				return instead
			}
			return text
		},
	}
}

func (w *work) bound(f func(string) string) func(string) (string, error) {
	return func(text string) (string, error) {
		if err := w.spend(len(text)); err != nil {
			return "", err
		}
		result := f(text)
		return result, w.spend(len(result))
	}
}

// truncate cuts a text to n characters, the mark at its end included.
func (w *work) truncate(n int, text string) (string, error) {
	if n < 1 {
		return "", errors.New("truncate needs a number of characters from 1")
	}
	return fitBy(utf8.RuneCountInString, text, n, asIs), w.spend(len(text))
}

func (w *work) replace(old, with, text string) (string, error) {
	if err := w.spend(len(text)); err != nil {
		return "", err
	}
	if err := w.spend(len(text) + strings.Count(text, old)*len(with)); err != nil {
		return "", err
	}
	return strings.ReplaceAll(text, old, with), nil
}

// join puts a separator between those texts that are not empty.
func (w *work) join(separator string, texts ...string) (string, error) {
	var some []string
	for _, text := range texts {
		if err := w.spend(len(separator) + len(text)); err != nil {
			return "", err
		}
		if text != "" {
			some = append(some, text)
		}
	}
	return strings.Join(some, separator), nil
}

// date writes a time in one of Go's layouts, in UTC.
func (w *work) date(layout, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "", errors.New("date needs a time such as 2026-03-01T12:30:00Z")
	}
	result := t.UTC().Format(layout)
	return result, w.spend(len(layout) + len(result))
}
