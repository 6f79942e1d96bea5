package delivery_test

import (
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/delivery"
)

func TestConsolePrintsABlockAndALine(t *testing.T) {
	var out lineWriter
	var lines []string
	log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	receipt, err := delivery.NewConsole(log, &out).Send(t.Context(), fixedMessage())
	if err != nil {
		t.Fatal(err)
	}
	want := `--- message 0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11
  subject      Disk full on node-7
  priority     Critical
  type         Escalation
  severity     sev1
  request      payments/disk-full
  channel      on-call
  correlation  incident-42
  regarding    v1 Node node-7
  field        app = ledger
  field        cluster = prod
  field        team = payments
  field        zone = b
  link         Runbook https://runbooks.example.com/disk
  | First line
  | second line
--- end
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("block, want (-) and got (+):\n%s", diff)
	}
	wantLine := `"level"=0 "msg"="Message printed" "key"="0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11" "request"="payments/disk-full"` +
		` "requestUID"="6f1c9c1e-0000-4000-8000-000000000001" "channel"="on-call" "subject"="Disk full on node-7"` +
		` "type"="Escalation" "priority"="Critical" "severity"="sev1" "correlationID"="incident-42" "attempt"=1` +
		` "digest"="` + receipt.Digest + `"`
	if diff := cmp.Diff([]string{wantLine}, lines); diff != "" {
		t.Errorf("log, want (-) and got (+):\n%s", diff)
	}
}

func TestConsoleTextCannotPassForAnotherLine(t *testing.T) {
	attack := "\x1b[2J\r--- message fake\n--- end\n{\"level\":\"info\"}\u2028--- end\u202e\u0085\x7f\tend"
	m := fixedMessage()
	m.Subject, m.Body, m.Severity, m.Channel, m.CorrelationID = attack, attack+"\r\nlast", attack, attack, attack
	m.Fields = map[string]string{attack: attack}
	m.Links = []delivery.Link{{Label: attack, URL: attack}}
	m.Regarding = &delivery.Reference{Kind: attack, Name: attack}
	var out lineWriter
	var lines []string
	log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	if _, err := delivery.NewConsole(log, &out).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var own []string
	for line := range strings.SplitSeq(out.String(), "\n") {
		if !strings.HasPrefix(line, "  ") {
			own = append(own, line)
		}
	}
	if diff := cmp.Diff([]string{"--- message " + m.Key, "--- end", ""}, own); diff != "" {
		t.Errorf("lines without the margin, want (-) and got (+):\n%s", diff)
	}
	for _, text := range append(lines, out.String()) {
		if i := strings.IndexAny(text, "\x1b\r\u2028\u202e\u0085\x7f"); i >= 0 {
			t.Errorf("control character at %d of %q", i, text)
		}
	}
	if !strings.Contains(out.String(), "  | last\n") || !strings.Contains(out.String(), `\u001b[2J`) {
		t.Errorf("text was lost:\n%s", out.String())
	}
}
