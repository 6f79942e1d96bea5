package delivery

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// full returns a message in which everything is set.
func full() *Message {
	return &Message{
		Key: "key", RequestUID: "uid", Namespace: "shop", Name: "disk-full", Channel: "ops",
		Created: time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC),
		Subject: "Disk full", Body: "It is at 95%.", BodyFormat: "Plain", Type: "Escalation", Priority: "Critical",
		Severity: "sev1", CorrelationID: "incident-42",
		Regarding: &Reference{APIVersion: "v1", Kind: "Node", Name: "node-7"},
		Links:     []Link{{"Runbook", "https://example.com/r"}, {"Graph", "https://example.com/g"}},
		Fields:    map[string]string{"zone": "b", "node": "db-0", "a-b": "c"},
	}
}

func TestATemplateMakesTheBodyOfTheMessage(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"as it stands", "as it stands"},
		{"{{ .Subject }}|{{ .Body }}|{{ .Type }}|{{ .Priority }}|{{ .Severity }}", "Disk full|It is at 95%.|Escalation|Critical|sev1"},
		{"{{ .Namespace }}/{{ .Name }} {{ .Channel }} {{ .CorrelationID }} {{ .Created }}", "shop/disk-full ops incident-42 2026-03-01T12:30:00Z"},
		{"{{ .Regarding.APIVersion }} {{ .Regarding.Kind }} {{ .Regarding.Namespace }}/{{ .Regarding.Name }}", "v1 Node /node-7"},
		{"{{ range .Links }}[{{ .Label }}]({{ .URL }}) {{ end }}", "[Runbook](https://example.com/r) [Graph](https://example.com/g)"},
		{"{{ range $name, $value := .Fields }}{{ $name }}={{ $value }} {{ end }}", "a-b=c node=db-0 zone=b"},
		{`{{ .Fields.node }} {{ index .Fields "a-b" }} <{{ .Fields.nothing }}>`, "db-0 c <>"},
		{"{{ with .Fields.nothing }}there{{ else }}{{ range .Links }}x{{ end }}{{ end }}", "xx"},
		{"{{ with .Name }}{{ range $.Links }}{{ range $.Fields }}x{{ end }}{{ end }}{{ end }}", "xxxxxx"},
		{"{{ range $i, $link := .Links }}{{ if $i }}, {{ end }}{{ $link.Label }}{{ end }}", "Runbook, Graph"},
		{`{{ if and (eq .Priority "Critical") (not (eq .Severity "")) }}page{{ end }}{{ len .Links }}`, "page2"},
		{"{{ upper .Name }} {{ .Priority | lower }} {{ trim \" x \" }}.", "DISK-FULL critical x."},
		{`{{ truncate 6 .Subject }} {{ truncate 9 .Subject }} {{ truncate 3 "äöüß" }}`, "Disk … Disk full äö…"},
		{`{{ default "none" .Fields.nothing }} {{ .Severity | default "none" }}`, "none sev1"},
		{`{{ join "/" .Regarding.Namespace .Regarding.Kind .Regarding.Name }}`, "Node/node-7"},
		{`{{ replace "%" " percent" .Body }} {{ quote .Subject }} {{ urlquery .Subject }}`, `It is at 95 percent. "Disk full" Disk+full`},
		{`{{ date "02 Jan 15:04 MST" .Created }} <{{ date "15:04" .Fields.nothing }}>`, "01 Mar 12:30 UTC <>"},
		{`{{ contains "full" .Subject }} {{ hasPrefix "Disk" .Subject }} {{ hasSuffix "Disk" .Subject }}`, "true true false"},
		{"{{- /* nothing */ -}} x {{- range .Links }}{{ break }}{{ end }}", "x"},
	} {
		m := full()
		got, err := Template{Body: c.template}.Apply(m)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		want := full()
		want.Body = c.want
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the message (-want +got):\n%s", c.template, diff)
		}
		if diff := cmp.Diff(full(), m); diff != "" {
			t.Errorf("%s: it changed the message that it was made of:\n%s", c.template, diff)
		}
		if err := (Template{Body: c.template}).Check(); err != nil {
			t.Errorf("%s: check: %v", c.template, err)
		}
	}
}

func TestATemplateMakesTheSubjectAndTheBodyOfTheSameMessage(t *testing.T) {
	got, err := Template{Subject: "[{{ .Priority }}] {{ .Subject }}\n", Body: "{{ .Subject }}"}.Apply(full())
	if err != nil || got.Subject != "[Critical] Disk full" || got.Body != "Disk full" {
		t.Errorf("subject %q, body %q (%v)", got.Subject, got.Body, err)
	}
	bare := &Message{Subject: "s", Body: "b"}
	got, err = Template{Subject: `{{ .Subject }}{{ .Regarding.Name }}{{ .Fields.x }}{{ range .Links }}x{{ end }}{{ if .Links }}{{ (index .Links 0).URL }}{{ end }}`}.Apply(bare)
	if err != nil || got.Subject != "s" {
		t.Errorf("a message with nothing but what is required became %q (%v)", got.Subject, err)
	}
}

// names ends what is said of a name that there is not.
const names = ": kubectl explain nch.spec.template lists the names"

func TestATemplateThatCouldRunForLongIsRefused(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"{{ .Subject", "body:1: unclosed action"},
		{"{{ nothing .Subject }}", `body:1: function "nothing" not defined` + names},
		{"\n{{ range 10 }}x{{ end }}", "body:2:9: range is for .Links and .Fields, within another range or with as $.Links and $.Fields"},
		{"{{ range .Body }}x{{ end }}", "range is for"},
		{"{{ range $x := .Links.Fields }}x{{ end }}", "range is for"},
		{"{{ $x := .Links }}{{ range $x }}x{{ end }}", "range is for"},
		{"{{ range .Links }}{{ range .Fields }}x{{ end }}{{ end }}", "range is for"},
		{"{{ with .Fields }}{{ range .Links }}x{{ end }}{{ end }}", "range is for"},
		{`{{ range (index .Fields "x") }}x{{ end }}`, "range is for"},
		{`{{ range .Fields | len }}x{{ end }}`, "range is for"},
		{"{{ range .Links }}{{ range $.Links }}{{ range $.Links }}x{{ end }}{{ end }}{{ end }}", "body:1:46: has more than 2 ranges within one another"},
		{"{{ range .Links }}{{ range $.Fields }}" + strings.Repeat("x{{ .}}", 10) + "{{ end }}{{ end }}", "takes up to 31842 steps, and may take 20000: put less into range"},
		{`{{ $ = .Body }}`, "$ is the message and cannot be set"},
		{`{{ $ := .Body }}{{ range $.Links }}x{{ end }}`, "$ is the message and cannot be set"},
		{`{{ define "x" }}y{{ end }}z`, "define and block are not for these templates"},
		{`{{ block "x" . }}y{{ end }}`, "is not for these templates"},
		{`{{ template "body" . }}`, `{{template "body" .}} is not for these templates`},
		{`{{ printf "%1000000d" 1 }}`, "body:1:3: printf is not for these templates" + names},
		{`{{ .Subject | print }}`, "print is not for these templates"},
		{`{{ if (println 1) }}{{ end }}`, "println is not for these templates"},
		{`{{ call .Subject }}`, "call is not for these templates"},
		{`{{ (html .Subject).x }}`, "html is not for these templates"},
		{`{{ slice .Subject 1 }}`, "slice is not for these templates"},
		{`{{ js .Subject }}`, "js is not for these templates"},
	} {
		m := full()
		got, err := Template{Body: c.template}.Apply(m)
		if err == nil || !strings.Contains(err.Error(), c.want) || got != m {
			t.Errorf("%s: %v, want %q and the message as it was", c.template, err, c.want)
		}
		if check := (Template{Subject: "x", Body: c.template}).Check(); check == nil || err != nil && check.Error() != err.Error() {
			t.Errorf("%s: check: %v, want %v", c.template, check, err)
		}
	}
}

func TestATemplateThatFailsLeavesTheMessageAsItIs(t *testing.T) {
	long := strings.Repeat("\U0001f600", maxBody)
	for _, c := range []struct {
		template  Template
		want      string
		onMessage bool // it fails on some messages only, so that a check passes
	}{
		{Template{Subject: "{{ .Sbject }}"}, "can't evaluate field Sbject" + names, false},
		{Template{Body: "{{ .Regarding.Uid }}"}, "can't evaluate field Uid" + names, false},
		{Template{Body: "{{ .Links.URL }}"}, "can't evaluate field URL" + names, false},
		{Template{Body: "{{ range .Links }}{{ .Url }}{{ end }}"}, "can't evaluate field Url" + names, false},
		{Template{Subject: "fine", Body: "{{ .Regarding.Name.First }}"}, "can't evaluate field First" + names, false},
		{Template{Body: "{{ .Created.Unix }}"}, "can't evaluate field Unix" + names, false},
		{Template{Body: `{{ truncate " in type " .Body }}`}, `expected integer; found " in type "`, false},
		{Template{Body: `{{ truncate 0 .Body }}`}, "truncate needs a number of characters from 1", false},
		{Template{Body: `{{ date "15:04" .Subject }}`}, "date needs a time such as 2026-03-01T12:30:00Z", false},
		{Template{Body: `{{ (index .Links 5).URL }}`}, "index out of range: 5: the request has fewer, so ask with if or len before it", true},
		{Template{Body: `{{ .Fields.nothing }}`}, "body: nothing came out", true},
		{Template{Subject: `{{ .Body }}`}, "subject: longer than 500 characters", true},
		{Template{Subject: strings.Repeat("x", maxSubject+1)}, "subject: longer than 500 characters", true},
		{Template{Body: `{{ .Body }}{{ .Body }}`}, "body: longer than 32768 characters", true},
		{Template{Body: `{{ .Body }}x`}, "body: longer than 32768 characters", true},
		{Template{Body: `{{ $x := "xxxxxxxx" }}` + strings.Repeat(`{{ $x = join "" $x $x }}`, 40)}, "worked through more than 8 MiB", false},
		{Template{Body: `{{ $x := .Body }}` + strings.Repeat(`{{ $x = replace "" $x $x }}`, 10)}, "worked through more than 8 MiB", false},
		{Template{Body: strings.Repeat(`{{ $x := upper .Body }}`, 40)}, "worked through more than 8 MiB", true},
	} {
		m := full()
		m.Body = long
		got, err := c.template.Apply(m)
		if err == nil || !strings.Contains(err.Error(), c.want) || got != m {
			t.Errorf("%s: %v, want %q and the message as it was", c.template, err, c.want)
		}
		if check := c.template.Check(); c.onMessage != (check == nil) {
			t.Errorf("%s: check: %v", c.template, check)
		}
	}
	m := full()
	m.Body = long
	if got, err := (Template{Body: "{{ .Body }}"}).Apply(m); err != nil || got.Body != long {
		t.Errorf("the longest body there is does not pass: %v", err)
	}
}

// Whatever a template and a message are, there comes a message within the limits or
// an error that can be shown, and the same each time.
func FuzzTemplate(f *testing.F) {
	f.Add("{{ .Subject }}", "{{ range .Links }}{{ .Label }}{{ end }}", "s", "b", "f")
	f.Add("{{ $x := .Body }}{{ $x = join .Body $x $x }}{{ $x }}", `{{ define "x" }}{{ end }}`, "s", "b", "f")
	f.Add(`{{ with index .Fields "f" }}{{ truncate 3 . }}{{ end }}`, "{{ range $k, $v := $.Fields }}{{ replace $k $v . }}{{ end }}", "\xff", "e\u0301", "\x00")
	f.Fuzz(func(t *testing.T, subject, body, one, two, three string) {
		m := &Message{Subject: one, Body: two, Severity: three, Fields: map[string]string{"f": one, two: three}}
		for range 16 {
			m.Links = append(m.Links, Link{Label: one, URL: two})
		}
		template := Template{Subject: subject[:min(len(subject), 1024)], Body: body[:min(len(body), 8192)]}
		_ = template.Check()
		began := time.Now()
		got, err := template.Apply(m)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		if err != nil {
			if got != m || len(err.Error()) > maxText || !utf8.ValidString(err.Error()) {
				t.Errorf("error %q with %+v", err, got)
			}
			return
		}
		if template.Subject != "" && utf8.RuneCountInString(got.Subject) > maxSubject || template.Body != "" && utf8.RuneCountInString(got.Body) > maxBody {
			t.Errorf("%d characters of subject, %d of body", utf8.RuneCountInString(got.Subject), utf8.RuneCountInString(got.Body))
		}
		if again, err := template.Apply(m); err != nil || again.Subject != got.Subject || again.Body != got.Body {
			t.Errorf("another time it makes something else: %v", err)
		}
	})
}
