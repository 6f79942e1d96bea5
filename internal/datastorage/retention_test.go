package datastorage_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// expiredLog is a log of 20 events and one more, of which those with an even
// number have expired.
func expiredLog(t *testing.T, databaseURL string) (*datastorage.Log, *client, time.Time) {
	t.Helper()
	return expiredLogOf(t, databaseURL, 20)
}

// expiredLogOf is as expiredLog, of another even number.
func expiredLogOf(t *testing.T, databaseURL string, size int) (*datastorage.Log, *client, time.Time) {
	t.Helper()
	now := time.Now().UTC()
	log := storetest.OpenLog(t, openURL(t, databaseURL))
	log.SetClock(func() time.Time { return now.Add(-31 * storetest.Day) })
	var records []datastorage.Record
	for n := range size {
		r := storetest.Record(n, func(e *audit.Event) { e.CorrelationID, e.Namespace = "incident", "" })
		if n%2 == 0 {
			r = storetest.Keep(r, 30)
		}
		records = append(records, r)
	}
	if _, err := log.Append(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	log.SetClock(func() time.Time { return now })
	if n, err := log.Expire(t.Context(), now, 0); n != size/2 || err != nil {
		t.Fatalf("expired %d, %v", n, err)
	}
	return log, serveLog(t, log, nil), now
}

func TestWhatHasExpiredIsProvenAllTheSame(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		_, c, _ := expiredLog(t, databaseURL)
		exported := c.get(exportPath).want(t, 200).body
		if out, err := verified(t, exported); err != nil {
			t.Errorf("the export: %v\n%s", err, out)
		}
		if got := strings.Count(exported, `"expired":true`); got != 10 {
			t.Errorf("%d expired events were exported", got)
		}
		if out, err := verifiedDatabase(t, databaseURL); err != nil {
			t.Errorf("the database: %v\n%s", err, out)
		}
		if got := c.chain("incident"); !got.IsValid || got.VerifiedEvents != 20 {
			t.Errorf("the chain: %+v", got)
		}
		var event map[string]any
		c.get("/api/v1/audit/events/"+id(4)).want(t, 200).decode(t, &event)
		if event["expired"] != true || event["resource_id"] != "request-4" || event["log_index"] != 4.0 || event["event_action"] != nil {
			t.Errorf("an expired event is shown as %v", event)
		}
		c.get("/api/v1/audit/log/proof/inclusion?event_id="+id(4)).want(t, 200)
	})
}

// The script is the documentation's, for those who do not trust ours.
func TestAnExportWithExpiredEventsIsCheckedWithPublicTools(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	page, err := os.ReadFile("../../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "cat > check.py <<'EOF'\n")
	script, _, _ = strings.Cut(script, "\nEOF\n")
	_, c, _ := expiredLog(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"))
	exported := c.get(exportPath).want(t, 200).body
	event := func(n int) string { return strings.SplitAfter(exported, "\n")[n+1] }
	changed := func(n int, edit func(string) string) string {
		return strings.Replace(exported, event(n), edit(event(n)), 1)
	}
	const deleted, other = "event %d has not expired as it is here: it was changed, or deleted\n", "these events do not lead to the root that was signed\n"
	place := func(line string) string { return line[strings.LastIndex(line, `,"leaf_hash"`):] }
	for name, tt := range map[string]struct{ exported, want string }{
		"as it is": {exported, "21 events lead to the root that was signed\n"},
		"what remains was changed": {changed(4, func(l string) string {
			return strings.Replace(l, "request-4", "request-5", 1)
		}), fmt.Sprintf(deleted, 4)},
		"deleted as if expired": {changed(5, func(l string) string {
			return `{"event_type":"notification.message.sent","expired":true` + place(l)
		}), fmt.Sprintf(deleted, 5)},
		"deleted by what is no event": {changed(4, func(l string) string {
			return `{"event_data":{"log_indices":[[4,4]],"remains":""},"event_type":"datastorage.events.expired","expired":true` + place(l)
		}), fmt.Sprintf(deleted, 4)},
		"one that has not expired": {changed(5, func(l string) string {
			return strings.Replace(l, "request-5", "request-6", 1)
		}), other},
		"another leaf": {changed(4, func(l string) string {
			return strings.TrimSuffix(l, place(l)) + place(event(6))
		}), other},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"export.ndjson": tt.exported, "log.key": c.get("/api/v1/audit/log/key").want(t, 200).body} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), python, "-c", script, "export.ndjson", "log.key")
			cmd.Dir = dir
			if out, _ := cmd.CombinedOutput(); string(out) != tt.want {
				t.Errorf("got %q, want %q", out, tt.want)
			}
		})
	}
}

func TestAnArchiveMayHaveWhatHasExpiredSince(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log, c, now := expiredLog(t, databaseURL)
		january := c.get(exportPath).want(t, 200).body
		if n, err := log.Expire(t.Context(), now, 30); n != 10 || err != nil {
			t.Fatalf("expired %d, %v", n, err)
		}
		february := c.get(exportPath+"?from=21").want(t, 200).body
		if out, err := verified(t, january, february); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// expiring is a store in which events expire before they are read the first time.
type expiring struct {
	datastorage.Store
	expire func()
}

func (s *expiring) Rows(ctx context.Context, from, to int64, limit int) ([]datastorage.Row, error) {
	if expire := s.expire; expire != nil {
		s.expire = nil
		expire()
	}
	return s.Store.Rows(ctx, from, to, limit)
}

func TestEventsMayExpireDuringAnExport(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		now := time.Now()
		store := &expiring{Store: openURL(t, databaseURL)}
		log := storetest.OpenLog(t, store)
		log.SetClock(func() time.Time { return now.Add(-2 * storetest.Day) })
		server := httptest.NewServer(datastorage.NewAPI(log, nil, logr.Discard()))
		t.Cleanup(server.Close)
		if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(0), storetest.Record(1)}); err != nil {
			t.Fatal(err)
		}
		log.SetClock(time.Now)
		store.expire = func() {
			if n, err := log.Expire(t.Context(), now, 1); n != 2 || err != nil {
				t.Errorf("expired %d, %v", n, err)
			}
		}
		export := func() (string, error) {
			resp, err := server.Client().Get(server.URL + exportPath)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return string(body), err
		}
		if _, err := export(); err == nil {
			t.Error("an export ends well although what says that its events have expired is not in it")
		}
		again, err := export()
		if err != nil {
			t.Error(err)
		}
		if out, err := verified(t, again); err != nil || strings.Count(again, `"expired":true`) != 2 {
			t.Errorf("%v\n%s\n%s", err, out, again)
		}
	})
}

func TestNothingCanBePassedOffAsExpired(t *testing.T) {
	for name, tt := range map[string]struct{ sql, want, chain, export string }{
		"bytes deleted": {
			"DELETE FROM audit_bodies WHERE log_index = 5",
			"event 5 (" + id(5) + "): its bytes were deleted, or its recorded_at was changed: no event says that it has expired",
			"its bytes were deleted, or its recorded_at was changed: no event says that it has expired", "",
		},
		"a column of an expired event": {
			"UPDATE audit_events SET resource_id = 'other' WHERE log_index = 6",
			"event 6 (" + id(6) + "): its columns were changed: they are not those that it had when it expired, as event 20 shows",
			"its columns were changed: they are not those that it had when it expired, as event 20 shows", "",
		},
		"an expired event back": {
			"INSERT INTO audit_bodies (log_index, recorded_at, event) SELECT log_index, recorded_at, '{}' FROM audit_events WHERE log_index = 8",
			"event 8 (" + id(8) + "): it is there again, and event 20 says that it has expired", "its bytes were changed",
			"event 8 (00000000-0000-0000-0000-000000000000): its bytes were changed", // an export may be older than what says so
		},
		"what has expired, by other bytes": {
			"UPDATE audit_bodies SET event = REPLACE(CAST(event AS text), '[18,18]', '[18,19]') WHERE log_index = 20", "its bytes were changed", "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, databaseURL string) {
				_, c, _ := expiredLog(t, databaseURL)
				storetest.Change(t, databaseURL, tt.sql)
				if out, err := verifiedDatabase(t, databaseURL); err == nil || !strings.Contains(out, tt.want) {
					t.Errorf("the database: %v\n%s", err, out)
				}
				if out, err := verified(t, c.get(exportPath).want(t, 200).body); err == nil || !strings.Contains(out, cmp.Or(tt.export, tt.want)) {
					t.Errorf("the export: %v\n%s", err, out)
				}
				if got := c.chain("incident"); tt.chain != "" && (got.IsValid || len(got.TamperedEvents) != 1 || !strings.HasPrefix(got.TamperedEvents[0].Message, tt.chain)) {
					t.Errorf("the chain: %+v", got)
				}
			})
		})
	}
}

// Otherwise whoever may write events could excuse what he has deleted.
func TestNobodyElseSaysWhatHasExpired(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	said := with(event(1), "event_type", `"datastorage.events.expired"`)
	forged := storetest.Record(1, func(e *audit.Event) { e.EventType = "datastorage.events.expired" }).Event
	canonical := string(forged.Append(nil))
	for _, body := range []string{said, canonical, strings.Replace(said, "datastorage.", `\u0064atastorage.`, 1), with(event(1), "event_type", `"datastorage.hold.released"`)} {
		p := c.post(batchPath, batch(event(0), body)).problem(t, 400, "invalid-event")
		want := `must not begin with "datastorage.", as do the events that the server records of itself`
		if len(p.Errors) != 1 || p.Errors[0].Pointer != "/1/event_type" || p.Errors[0].Detail != want {
			t.Errorf("%.3000s: %+v", body, p.Errors)
		}
	}
}

func TestNobodyElseCanTakeTheIDOfAnExpiry(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log, c, now := expiredLog(t, databaseURL)
		foretold := audit.EventID("datastorage.events.expired", "1").String()
		c.post(batchPath, batch(with(event(500), "event_id", `"`+foretold+`"`))).want(t, 201)
		if n, err := log.Expire(t.Context(), now, 30); n != 10 || err != nil {
			t.Errorf("expired %d, %v", n, err)
		}
		if out, err := verifiedDatabase(t, databaseURL); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAChainBelievesNoChangedExpiry(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		_, c, _ := expiredLog(t, databaseURL)
		storetest.Change(t, databaseURL, "UPDATE audit_bodies SET event = REPLACE(CAST(event AS text), '[18,18]', '[18,19]') WHERE log_index = 20")
		storetest.Change(t, databaseURL, "DELETE FROM audit_bodies WHERE log_index = 19")
		if got := c.chain("incident"); got.IsValid || got.TamperedEvents[0].EventID != id(19) {
			t.Errorf("%+v", got)
		}
	})
}

func TestBytesThatWerePutBackAndExpiredAgainAreTold(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log, _, now := expiredLog(t, databaseURL)
		r := storetest.Keep(storetest.Record(6, func(e *audit.Event) { e.CorrelationID, e.Namespace = "incident", "" }), 30)
		page, err := log.Query(t.Context(), datastorage.Filter{Equal: map[string]string{"event_id": id(6)}, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if page.Events[0].LeafHash != r.LeafHash {
			t.Fatal("the test has other bytes")
		}
		storetest.Change(t, databaseURL, "INSERT INTO audit_bodies (log_index, recorded_at, expires_at, event) SELECT log_index, recorded_at, recorded_at, '"+string(r.Body)+"' FROM audit_events WHERE log_index = 6")
		if n, err := log.Expire(t.Context(), now, 0); n != 1 || err != nil {
			t.Fatalf("expired %d, %v", n, err)
		}
		out, err := verifiedDatabase(t, databaseURL)
		if want := "the events 20 and 21 both say that event 6 has expired"; err == nil || !strings.Contains(out, want) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAHoldCannotBeTakenAway(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log, c, now := expiredLog(t, databaseURL)
		hold := datastorage.Hold{CorrelationID: "incident", Reason: "case 7", PlacedBy: "alice"}
		for range 2 {
			if _, err := log.PlaceHold(t.Context(), hold); err != nil {
				t.Fatal(err)
			}
			if out, err := verifiedDatabase(t, databaseURL); err != nil {
				t.Errorf("held: %v\n%s", err, out)
			}
			if err := log.ReleaseHold(t.Context(), hold.CorrelationID, "bob"); err != nil {
				t.Fatal(err)
			}
		}
		storetest.Change(t, databaseURL, "INSERT INTO audit_holds SELECT correlation_id, 'none', 'nobody', recorded_at FROM audit_events WHERE log_index = 3")
		if out, err := verifiedDatabase(t, databaseURL); err == nil || !strings.Contains(out, `the legal hold on "incident" was put into the database: no event has placed it`) {
			t.Errorf("put in: %v\n%s", err, out)
		}
		storetest.Change(t, databaseURL, "DELETE FROM audit_holds")
		if _, err := log.PlaceHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
		gone := `the legal hold on "incident" was changed, or taken out of the database: event 25 placed it, and none has released it`
		for _, sql := range []string{"UPDATE audit_holds SET reason = 'none'", "DELETE FROM audit_holds"} {
			storetest.Change(t, databaseURL, sql)
			if out, err := verifiedDatabase(t, databaseURL); err == nil || !strings.Contains(out, gone) {
				t.Errorf("%s: %v\n%s", sql, err, out)
			}
		}
		if n, err := log.Expire(t.Context(), now, 30); n != 10 || err != nil {
			t.Fatalf("expired %d, %v", n, err)
		}
		expired := "event 7 (" + id(7) + "): it expired under the legal hold that event 25 placed, as event 26 says"
		if out, err := verifiedDatabase(t, databaseURL); err == nil || !strings.Contains(out, expired) {
			t.Errorf("the database: %v\n%s", err, out)
		}
		if out, err := verified(t, c.get(exportPath).want(t, 200).body); err == nil || !strings.Contains(out, expired) {
			t.Errorf("the export: %v\n%s", err, out)
		}
	})
}

func TestAHoldKeepsWhatIsRecordedWhileItLasts(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		now := time.Now()
		log := storetest.OpenLog(t, openURL(t, databaseURL))
		day := func(ago int) {
			log.SetClock(func() time.Time { return now.Add(-time.Duration(ago) * storetest.Day) })
		}
		record := func(n int) {
			t.Helper()
			held := storetest.Record(n, func(e *audit.Event) { e.CorrelationID = "held" })
			if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Keep(held, 7)}); err != nil {
				t.Fatal(err)
			}
		}
		expire := func(when string, want int) {
			t.Helper()
			if n, err := log.Expire(t.Context(), now, 7); n != want || err != nil {
				t.Errorf("%s: expired %d, %v; want %d", when, n, err, want)
			}
		}
		day(40)
		record(0)
		day(30)
		if _, err := log.PlaceHold(t.Context(), datastorage.Hold{CorrelationID: "held", Reason: "case 7", PlacedBy: "alice"}); err != nil {
			t.Fatal(err)
		}
		day(20)
		record(1)
		day(0)
		expire("held", 0)
		if err := log.ReleaseHold(t.Context(), "held", "bob"); err != nil {
			t.Fatal(err)
		}
		expire("released", 2)
	})
}

// Otherwise whoever changes an event would only have to wait.
func TestWhatWasChangedDoesNotExpire(t *testing.T) {
	for name, sql := range map[string]string{
		"bytes":     "UPDATE audit_bodies SET event = '{}' WHERE log_index = 7",
		"leaf_hash": "UPDATE audit_events SET leaf_hash = (SELECT leaf_hash FROM audit_events WHERE log_index = 9) WHERE log_index = 7",
		"time":      "UPDATE audit_bodies SET expires_at = recorded_at WHERE log_index = 7",
		"a column":  "UPDATE audit_events SET correlation_id = 'other' WHERE log_index = 7",
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, databaseURL string) {
				log, c, now := expiredLog(t, databaseURL)
				storetest.Change(t, databaseURL, sql)
				days := int64(30)
				if name == "time" {
					days = 365
				}
				n, err := log.Expire(t.Context(), now, days)
				if n != 0 || !errors.Is(err, datastorage.ErrTampered) || !strings.Contains(err.Error(), "event 7 ") {
					t.Errorf("expired %d, %v", n, err)
				}
				if got := strings.Count(c.get(exportPath).want(t, 200).body, `"expired":true`); got != 10 {
					t.Errorf("%d events have expired, want those 10 from before", got)
				}
				if name != "leaf_hash" { // with which the log cannot go on at all
					grow(c, 100, 101)
				}
			})
		})
	}
}

func TestWhatIsToBeKeptDoesNotExpire(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log, c, now := expiredLog(t, databaseURL)
		c.post(batchPath, batch(with(event(21), "event_timestamp", now.Add(-29*storetest.Day).Format(`"`+time.RFC3339+`"`)))).want(t, 201)
		log.SetClock(func() time.Time { return now.Add(-40 * storetest.Day) })
		if _, err := log.PlaceHold(t.Context(), datastorage.Hold{CorrelationID: "another", Reason: "case 7", PlacedBy: "alice"}); err != nil {
			t.Fatal(err)
		}
		if err := log.ReleaseHold(t.Context(), "another", "alice"); err != nil {
			t.Fatal(err)
		}
		log.SetClock(func() time.Time { return now })
		keeps := func(what string, n, want int) {
			t.Helper()
			for _, table := range []string{"audit_bodies", "audit_events"} {
				storetest.Change(t, databaseURL, fmt.Sprintf("UPDATE %s SET recorded_at = (SELECT recorded_at FROM audit_events WHERE log_index = 1) WHERE log_index = %d", table, n))
			}
			if got, err := log.Expire(t.Context(), now, 30); got != want || want == 0 && !errors.Is(err, datastorage.ErrTampered) {
				t.Errorf("%s: expired %d, %v; want %d", what, got, err, want)
			}
		}
		keeps("an event that cannot have been recorded so early", 21, 10)
		storetest.Change(t, databaseURL, "UPDATE audit_bodies SET expires_at = NULL WHERE log_index = 22")
		keeps("what the log says of itself", 22, 0)
	})
}

func TestAnEventSaysHowLongItIsKept(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		now := time.Now()
		log := storetest.OpenLog(t, openURL(t, databaseURL))
		log.SetClock(func() time.Time { return now.Add(-8 * storetest.Day) })
		c := serveLog(t, log, nil)
		c.post(batchPath, batch(with(event(0), "retention_days", "7"), with(event(1), "retention_days", "9"), event(2), with(event(3), "retention_days", "null"))).want(t, 201)
		log.SetClock(time.Now)
		if n, err := log.Expire(t.Context(), now, 0); n != 1 || err != nil {
			t.Errorf("expired %d, %v; want the one that was to be kept for 7 days", n, err)
		}
		ahead := now.Add(storetest.Day).Format(`"` + time.RFC3339 + `"`)
		c.post(batchPath, batch(with(with(event(4), "event_timestamp", ahead), "retention_days", "1"))).want(t, 201)
		if n, err := log.Expire(t.Context(), now.Add(storetest.Day+time.Hour), 1); strings.HasPrefix(databaseURL, "sqlite") && n != 3 || err != nil {
			t.Errorf("expired %d, %v; want the three that were recorded before, and not the one that is to happen yet", n, err)
		}
		for value, want := range map[string]string{
			"0": "must be a number of days from 1 to 36500", "-1": "must be a number of days from 1 to 36500", "36501": "must be a number of days from 1 to 36500",
			`"7"`: "must be an integer", "1.5": "must be an integer",
		} {
			p := c.post(batchPath, batch(with(event(9), "retention_days", value))).problem(t, 400, "invalid-event")
			if len(p.Errors) != 1 || p.Errors[0].Pointer != "/0/retention_days" || p.Errors[0].Detail != want {
				t.Errorf("%s: %+v", value, p.Errors)
			}
		}
		c.post(batchPath, batch(with(event(9), "expired", "true"))).problem(t, 400, "invalid-event")
	})
}

func TestTheServerLetsEventsExpireByItsPolicy(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := filepath.Join(t.TempDir(), "signing.key")
		expired := make(chan string, 1)
		edit := func(o *datastorage.Options) {
			o.SigningKey, o.RetentionDays = key, 30
			o.Log = funcr.New(func(_, line string) {
				if strings.Contains(line, "Events have expired") {
					expired <- line
				}
			}, funcr.Options{})
		}
		s := start(t, databaseURL, edit)
		c := newClient(t, "http://"+s.address())
		grow(c, 0, 3)
		s.stop()
		if err := s.wait(); err != nil {
			t.Fatal(err)
		}
		older := "UPDATE %s SET recorded_at = recorded_at - 31 * 86400000000"
		if strings.HasPrefix(databaseURL, "postgres") {
			older = "UPDATE %s SET recorded_at = recorded_at - interval '31 days'"
			// The rows move to partitions that have to be there.
			storetest.Change(t, databaseURL, "CREATE TABLE older PARTITION OF audit_bodies FOR VALUES FROM ('2000-01-01') TO (date_trunc('month', now()))")
		}
		storetest.Change(t, databaseURL, fmt.Sprintf(older, "audit_events"))
		storetest.Change(t, databaseURL, fmt.Sprintf(older, "audit_bodies"))
		s = start(t, databaseURL, edit)
		if line := <-expired; !strings.Contains(line, `"events"=3`) {
			t.Errorf("it says %s", line)
		}
		var got map[string]any
		newClient(t, "http://"+s.address()).get("/api/v1/audit/events/"+id(1)).want(t, 200).decode(t, &got)
		if got["expired"] != true {
			t.Errorf("got %v", got)
		}
	})
}

// crowded is a store that somebody reads for long.
type crowded struct{ datastorage.Store }

func (crowded) Reclaim(context.Context, time.Time) error { return errors.New("somebody reads") }

func TestSpaceThatIsNotGivenBackIsToldApartFromWhatDoesNotExpire(t *testing.T) {
	said := make(chan string, 1)
	start(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"), func(o *datastorage.Options) {
		o.RetentionDays = 30
		o.Openers = map[string]datastorage.Opener{"sqlite": func(ctx context.Context, url string, unsafe bool) (datastorage.Store, func() error, error) {
			store, closeStore, err := sqlite.Open(ctx, url, unsafe)
			return crowded{store}, closeStore, err
		}}
		o.Log = funcr.New(func(_, line string) {
			if strings.Contains(line, "somebody reads") {
				said <- line
			}
		}, funcr.Options{})
	})
	if line := <-said; !strings.Contains(line, "Giving back the space of what has expired failed") {
		t.Errorf("it says %s", line)
	}
}

func TestHolds(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		const path = "/api/v1/audit/legal-hold"
		hold := `{"correlation_id":"a/b ü","reason":"case 7","placed_by":"alice"}`
		var placed, again datastorage.Hold
		c.post(path, hold).want(t, 201).decode(t, &placed)
		c.post(path, strings.Replace(hold, "alice", "bob", 1)).want(t, 200).decode(t, &again)
		if placed != again || placed.PlacedBy != "alice" || placed.CorrelationID != "a/b ü" || placed.PlacedAt.IsZero() {
			t.Errorf("placed %+v, and then %+v", placed, again)
		}
		var list struct{ Data []datastorage.Hold }
		c.get(path).want(t, 200).decode(t, &list)
		if len(list.Data) != 1 || list.Data[0] != placed {
			t.Errorf("listed %+v", list.Data)
		}
		escaped := path + "/" + url.PathEscape("a/b ü")
		if p := c.do(http.MethodDelete, escaped, "").problem(t, 400, "invalid-request"); !strings.Contains(p.Detail, "released_by must have 1 to 255 characters") {
			t.Errorf("got %q", p.Detail)
		}
		c.do(http.MethodDelete, escaped+"?released_by=carol", "").want(t, 200)
		c.do(http.MethodDelete, escaped+"?released_by=carol", "").problem(t, 404, "not-found")
		c.get(path).want(t, 200).decode(t, &list)
		if len(list.Data) != 0 {
			t.Errorf("listed %+v after it was released", list.Data)
		}
		for body, want := range map[string]string{
			"":                                       "the body must be a JSON object",
			"[]":                                     "the body must be a JSON object",
			`{"reason":"r","placed_by":"p"}`:         "correlation_id must have 1 to 255 characters",
			`{"correlation_id":"c","placed_by":"p"}`: "reason must have 1 to 1000 characters",
			`{"correlation_id":"c","reason":"r"}`:    "placed_by must have 1 to 255 characters",
			`{"correlation_id":"c\u0000","reason":"r","placed_by":"p"}`:     "correlation_id must be without NUL characters",
			`{"correlation_id":"` + strings.Repeat("ü", 256) + `"}`:         "correlation_id must have 1 to 255 characters",
			`{"correlation_id":"c","reason":"` + strings.Repeat("r", 20000): "the body must be a JSON object",
		} {
			if p := c.post(path, body, "Content-Type", "application/json").problem(t, 400, "invalid-request"); !strings.Contains(p.Detail, want) {
				t.Errorf("%.60s: got %q, want %q", body, p.Detail, want)
			}
		}
		for _, id := range []string{".", "..", "/"} {
			if p := c.post(path, `{"correlation_id":"`+id+`","reason":"r","placed_by":"p"}`).problem(t, 400, "invalid-request"); !strings.Contains(p.Detail, "correlation_id must be other than") {
				t.Errorf("%q: got %q", id, p.Detail)
			}
		}
		for _, id := range []string{"...", "a//b", "a/../b", "//", "/x", "x/", "%2F", "ü%", "a b+c", "?x#y", "\n"} {
			text, _ := json.Marshal(datastorage.Hold{CorrelationID: id, Reason: "r", PlacedBy: "p"})
			c.post(path, string(text)).want(t, 201)
			c.do(http.MethodDelete, path+"/"+url.PathEscape(id)+"?released_by=p", "").want(t, 200)
		}
		c.post(path, hold, "Content-Type", "text/plain").problem(t, 415, "unsupported-media-type")
	})
}
