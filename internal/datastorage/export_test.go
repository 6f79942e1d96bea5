package datastorage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/datastorage/verify"
	"kubernaut.ai/notification/internal/ledger"
)

const exportPath = "/api/v1/audit/export"

// verified runs datastorage verify on the parts of an export.
func verified(t *testing.T, parts ...string) (string, error) {
	t.Helper()
	var args []string
	for n, part := range parts {
		path := filepath.Join(t.TempDir(), fmt.Sprint("part", n))
		if err := os.WriteFile(path, []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--export", path)
	}
	return runVerify(t, args...)
}

func verifiedDatabase(t *testing.T, databaseURL string) (string, error) {
	t.Helper()
	return runVerify(t, "--database-url", databaseURL)
}

func runVerify(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := verify.Main(t.Context(), args, &out, io.Discard, map[string]datastorage.ReadOpener{"sqlite": sqlite.OpenReader, "postgres": postgres.OpenReader})
	return out.String(), err
}

func TestAnExportHasTheEventsAsTheyAreReadAndProvesThem(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		const size = 2*ledger.TileWidth + 3
		grow(c, 0, size)
		a := c.get(exportPath).want(t, 200)
		lines := strings.Split(strings.TrimSuffix(a.body, "\n"), "\n")
		if got := a.header.Get("Content-Type"); got != "application/x-ndjson" || len(lines) != size+1 {
			t.Fatalf("got %d lines of %s", len(lines), got)
		}
		var first struct{ Manifest datastorage.Manifest }
		if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
			t.Fatal(err)
		}
		if m := first.Manifest; m.From != 0 || m.To != size || c.verify(m.Checkpoint).Size != size || len(m.Left) != 0 {
			t.Errorf("the manifest is %s", lines[0])
		}
		for _, n := range []int{0, 255, size - 1} {
			if want := strings.TrimSpace(c.get(eventsPath+"/"+id(n)).want(t, 200).body); lines[n+1] != want {
				t.Errorf("event %d: got %s, want %s", n, lines[n+1], want)
			}
		}
		if out, err := verified(t, a.body); err != nil || !strings.HasPrefix(out, fmt.Sprintf("The export is whole: %d events from number 0 on", size)) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAnExportGoesOnWhereItWasCutOff(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		grow(c, 0, 300)
		whole := c.get(exportPath).want(t, 200).body
		grow(c, 300, 700)
		for _, from := range []int{1, 255, 256, 299, 300} {
			lines := strings.SplitAfter(whole, "\n")[:from+1]
			first := strings.Join(lines, "")
			if from < 300 {
				first += `{"actor_id":"cut`
			}
			rest := c.get(fmt.Sprintf("%s?from=%d", exportPath, from)).want(t, 200).body
			if out, err := verified(t, first, rest); err != nil || !strings.HasPrefix(out, "The export is whole: 700 events from number 0 on") {
				t.Errorf("from %d: %v\n%s", from, err, out)
			}
			if out, err := verified(t, rest); err != nil || !strings.HasPrefix(out, fmt.Sprintf("The export is whole: %d events from number %d on", 700-from, from)) {
				t.Errorf("from %d alone: %v\n%s", from, err, out)
			}
			if out, err := verified(t, first); from < 300 && (err == nil || !strings.Contains(out, fmt.Sprintf("Get the rest with from=%d", from))) {
				t.Errorf("to %d alone: %v\n%s", from, err, out)
			}
		}
	})
}

func TestAnExportThatCannotBeMadeSaysWhy(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	grow(c, 0, 3)
	for query, want := range map[string]string{
		"?from=4":        "from must be a number of events from 0 to 3, which is how many there are",
		"?from=-1":       "from must be a number of events from 0 to 3",
		"?from=x":        "from must be a number of events from 0 to 3",
		"?from=":         "from must be a number of events from 0 to 3",
		"?from=1&from=2": "from must be a number of events from 0 to 3",
		"?to=4":          `parameter "to" is not known`,
		"?from=%zz":      "the query is malformed",
	} {
		if p := c.get(exportPath+query).problem(t, 400, "invalid-request"); !strings.Contains(p.Detail, want) {
			t.Errorf("%s: got %q, want %q", query, p.Detail, want)
		}
	}
	if got := c.get(exportPath+"?from=3").want(t, 200).body; strings.Count(got, "\n") != 1 {
		t.Errorf("an export of nothing is %s", got)
	}
}

func TestAnExportOfALogThatContradictsItselfIsMadeAllTheSame(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		grow(c, 0, 10)
		storetest.Change(t, databaseURL, "UPDATE audit_bodies SET event = '[]' WHERE log_index = 7")
		out, err := verified(t, c.get(exportPath).want(t, 200).body)
		if err == nil || !strings.Contains(out, "1. event 7 (it is no event): its bytes were changed") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// slowly is a writer whose first write waits.
type slowly struct {
	http.ResponseWriter
	began, goOn chan struct{}
}

func (s *slowly) Write(p []byte) (int, error) {
	if s.began != nil {
		close(s.began)
		<-s.goOn
		s.began = nil
	}
	return s.ResponseWriter.Write(p)
}

func TestFewExportsAreMadeAtOnce(t *testing.T) {
	api := datastorage.NewAPI(storetest.OpenLog(t, openSQLite(t)), nil, logr.Discard())
	goOn := make(chan struct{})
	began := make([]chan struct{}, 4)
	ended := make(chan struct{})
	for n := range began {
		began[n] = make(chan struct{})
		go func() {
			defer func() { ended <- struct{}{} }()
			api.ServeHTTP(&slowly{httptest.NewRecorder(), began[n], goOn}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, exportPath, http.NoBody))
		}()
		<-began[n]
	}
	answer := httptest.NewRecorder()
	api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, exportPath, http.NoBody))
	if answer.Code != http.StatusTooManyRequests || answer.Header().Get("Retry-After") == "" || !strings.Contains(answer.Body.String(), "4 exports and verifications are under way") {
		t.Errorf("got %d: %s", answer.Code, answer.Body)
	}
	close(goOn)
	for range began {
		<-ended
	}
	answer = httptest.NewRecorder()
	if api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, exportPath, http.NoBody)); answer.Code != http.StatusOK {
		t.Errorf("got %d once they had ended", answer.Code)
	}
}

// The tamper matrix of an export, of all events or of the later ones.
func TestWhatWasDoneToAnExportIsFoundAndNamed(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	grow(c, 0, 300)
	early := c.get(exportPath).want(t, 200).body
	grow(c, 300, 600)
	other := serve(t, openSQLite(t), nil)
	grow(other, 0, 600)
	foreign := other.get(exportPath+"?from=100").want(t, 200).body
	for _, from := range []int{0, 100} {
		whole := c.get(fmt.Sprintf("%s?from=%d", exportPath, from)).want(t, 200).body
		line := func(n int) int { return n - from + 1 } // of an event
		event := func(n int) string { return fmt.Sprintf("event %d (%s): ", n, id(n)) }
		tests := map[string]struct {
			edit func(lines []string) []string
			want string
		}{
			"a byte": {func(l []string) []string {
				l[line(200)] = strings.Replace(l[line(200)], `"sent"`, `"senu"`, 1)
				return l
			}, "1. " + event(200) + "its bytes were changed: they do not have the hash that the tree has\n"},
			"a leaf_hash": {func(l []string) []string {
				l[line(200)] = l[line(200)][:len(l[line(200)])-120] + strings.Replace(l[line(200)][len(l[line(200)])-120:], "0", "1", 1)
				return l
			}, "1. " + event(200) + "its leaf_hash was changed: its bytes have the hash that the tree has\n"},
			"a byte and the leaf_hash": {func(l []string) []string {
				row, err := datastorage.ParseLine([]byte(strings.Replace(strings.TrimSpace(l[line(200)]), `"sent"`, `"senu"`, 1)))
				if err != nil {
					t.Fatal(err)
				}
				body, column := row.Hashes()
				l[line(200)] = strings.Replace(strings.Replace(l[line(200)], `"sent"`, `"senu"`, 1), fmt.Sprintf("%x", column[:]), fmt.Sprintf("%x", body[:]), 1)
				return l
			}, fmt.Sprintf("Of the events %d to 599 at least one was changed together with its leaf hash", from)},
			"a line gone":     {func(l []string) []string { return append(l[:line(200)], l[line(201):]...) }, "1. event 200 is missing: it was deleted\n"},
			"the newest gone": {func(l []string) []string { return l[:line(590)] }, "1. the export ends after event 589 of 600: it was cut off. Get the rest with from=590"},
			"two swapped": {func(l []string) []string {
				l[line(200)], l[line(201)] = l[line(201)], l[line(200)]
				return l
			}, "1. event 200 is missing"},
			"a line twice":   {func(l []string) []string { return append(l, l[line(200)]) }, "1. " + event(200) + "it stands after event 599: it was put in, or the lines were reordered\n"},
			"a line of none": {func(l []string) []string { l[line(200)] = "{}\n"; return l }, fmt.Sprintf("line %d of ", line(200)+1)},
			"beyond the end": {func(l []string) []string {
				return append(l, strings.Replace(l[line(599)], `"log_index":599`, `"log_index":600`, 1))
			}, "1. event 600 (" + id(599) + "): it was put in beyond the end: the manifest is of 600 events\n"},
			"the last line's":    {func(l []string) []string { l[line(599)] = l[line(599)][:50]; return l }, "is cut off\n"},
			"the checkpoint":     {func(l []string) []string { l[0] = strings.Replace(l[0], `\n600\n`, `\n601\n`, 1); return l }, "is not signed with the log's key"},
			"the manifest's to":  {func(l []string) []string { l[0] = strings.Replace(l[0], `"to":600`, `"to":599`, 1); return l }, "stands where one of 599 events was, but is of 600\n"},
			"the manifest's key": {func(l []string) []string { l[0] = strings.Replace(l[0], `"verifier":"e`, `"verifier":"f`, 1); return l }, `1. the public key "fxample.com/log+`},
		}
		if from > 0 {
			tests["what is before"] = struct {
				edit func(lines []string) []string
				want string
			}{func(l []string) []string {
				at := strings.Index(l[0], `"left":["`) + len(`"left":["`)
				l[0] = l[0][:at] + "AAAA" + l[0][at+4:]
				return l
			}, "Of the events 100 to 599 at least one"}
		}
		for name, tt := range tests {
			lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
			lines[len(lines)-1] += "\n"
			out, err := verified(t, strings.Join(tt.edit(lines), ""))
			if err == nil || !strings.Contains(err.Error(), "verification ended with findings: ") || !strings.Contains(out, tt.want) {
				t.Errorf("from %d, %s: %v\n%s\nwant %s", from, name, err, out, tt.want)
			}
		}
	}
	cut := strings.Join(strings.SplitAfter(early, "\n")[:101], "")
	for name, tt := range map[string]struct {
		parts []string
		want  string
	}{
		"parts of two logs":      {[]string{cut, foreign}, "goes on with another log than the part before it"},
		"a part missing":         {[]string{cut, c.get(exportPath + "?from=150").body}, "1. the events 100 to 149 are missing: they were deleted\n"},
		"parts in another order": {[]string{c.get(exportPath + "?from=100").body, cut}, "begins with event 0, and the part before it ends with event 599: the parts must be in order"},
	} {
		if out, err := verified(t, tt.parts...); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v\n%s\nwant %s", name, err, out, tt.want)
		}
	}
	if _, err := verified(t, "nothing\n"); err == nil || !strings.Contains(err.Error(), "verification failed, nothing is known: ") {
		t.Errorf("of a file that is no export: %v", err)
	}
}
