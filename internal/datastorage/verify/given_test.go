package verify_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/datastorage/verify"
	"kubernaut.ai/notification/internal/ledger"
)

// receipt is what a request's status keeps of a checkpoint.
func receipt(t *testing.T, key *ledger.Key, signed string) string {
	t.Helper()
	c, err := ledger.Verify(signed, key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("status:\n  deliveries:\n  - audit:\n      checkpoint:\n        size: %d\n        root: %s\n", c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

func TestALogIsHeldToWhatOthersHaveOfIt(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		e := newEvidence(t, databaseURL)
		inJSON, err := json.Marshal(map[string]string{"checkpoint": e.first})
		if err != nil {
			t.Fatal(err)
		}
		for name, given := range map[string]string{
			"a checkpoint": e.last, "one in JSON": string(inJSON), "several": e.last + "\n" + e.first,
			"one in YAML": "checkpoint: |\n  " + strings.ReplaceAll(e.first, "\n", "\n  "),
			"a receipt":   receipt(t, e.key, e.first),
		} {
			out, err := run(t, "--database-url", e.url, "--checkpoint", write(t, given))
			if err != nil || strings.Contains(out, " 0 given with") {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
		if _, err := run(t, "--database-url", e.url, "--checkpoint", write(t, "nothing")); err == nil || !strings.Contains(err.Error(), "has neither a signed checkpoint nor a receipt with a size and a root") {
			t.Errorf("of a file with nothing: %v", err)
		}
		changed := strings.Replace(receipt(t, e.key, e.first), "root: ", "root: AAAA", 1)
		changed = changed[:len(changed)-6] + "=\n"
		other := storetest.NewKey(t)
		foreign, err := other.Sign(ledger.Checkpoint{Size: half, Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct{ given, want string }{
			"a changed receipt":       {changed, "Of the events 0 to 299 at least one is another one then, or the receipt was changed"},
			"a changed checkpoint":    {strings.Replace(e.first, "\n300\n", "\n299\n", 1), "is not signed with the log's key: it was changed"},
			"one of another log":      {foreign, "is not signed with the log's key: it was changed, it is of another log"},
			"one of an enormous size": {strings.Replace(receipt(t, e.key, e.first), "300", "99999999999999999999", 1), "cannot be compared"},
		} {
			out, err := run(t, "--database-url", e.url, "--checkpoint", write(t, tt.given))
			if err == nil || !strings.Contains(out, tt.want) || !strings.Contains(err.Error(), "findings: 1") {
				t.Errorf("%s: %v\n%s\nwant %s", name, err, out, tt.want)
			}
		}
		out, err := run(t, "--database-url", e.url, "--log-key", other.Verifier())
		if err == nil || !strings.Contains(out, "1. the key was changed: the public key in the head of the log is ") {
			t.Errorf("with another key: %v\n%s", err, out)
		}
		if _, err = run(t, "--database-url", e.url, "--log-key", "x"); err == nil || !strings.Contains(err.Error(), "nothing is known: --log-key must be a public key") {
			t.Errorf("with no key: %v", err)
		}
	})
}

// Whoever has the signing key can make any database whole in itself. What others
// have kept shows it.
func TestAReplayedBackupAndAForkShowInWhatOthersHave(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := storetest.NewKey(t)
		first := record(t, databaseURL, key, records(0, half)...)
		backup := copied(t, databaseURL)
		last := record(t, databaseURL, key, records(half, full)...)

		for name, given := range map[string]string{"checkpoint": last, "receipt": receipt(t, key, last)} {
			out, err := run(t, "--database-url", backup, "--checkpoint", write(t, given))
			if want := fmt.Sprintf("1. the newest %d events are missing: the %s of %d events in ", full-half, name, full); err == nil || !strings.Contains(out, want) {
				t.Errorf("backup and %s: %v\n%s", name, err, out)
			}
		}
		record(t, backup, key, records(half+1, full+10)...)
		if out, err := run(t, "--database-url", backup, "--checkpoint", write(t, first)); err != nil {
			t.Errorf("the fork is whole in itself, and has what both have: %v\n%s", err, out)
		}
		out, err := run(t, "--database-url", backup, "--checkpoint", write(t, first+"\n"+last))
		if err == nil || !strings.Contains(out, "or the log is a fork: another history that the same key has signed") || !strings.Contains(out, "Of the events 300 to 611 at least one") {
			t.Errorf("fork: %v\n%s", err, out)
		}
	})
}

func TestWhatIsUnusualIsFine(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		at := func(when time.Time) func(*audit.Event) {
			return func(e *audit.Event) { e.EventTimestamp = when }
		}
		bare := func(e *audit.Event) {
			e.Severity, e.ResourceID, e.Namespace = "", "", ""
			e.EventData = json.RawMessage(`{"a":1.5,"ä":"\\\n","salt":"x","z":[]}`)
			e.ErrorMessage = "quote \" and \u2028"
		}
		key := storetest.NewKey(t)
		record(t, databaseURL, key,
			storetest.Record(0),
			storetest.Record(1, at(storetest.Epoch.Add(-50*365*24*time.Hour))),
			storetest.Record(2, at(storetest.Epoch.Add(24*time.Hour))),
			storetest.Record(3, at(storetest.Epoch)), // with that of 0 in the same microsecond
			storetest.Record(4, bare),
			storetest.Record(5, func(e *audit.Event) { // 0 under another ID
				id := e.EventID
				*e = storetest.Record(0).Event
				e.EventID = id
			}),
		)
		record(t, databaseURL, key)
		if out, err := run(t, "--database-url", databaseURL, "--log-key", key.Verifier()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAnEmptyLogAndOneThatGrowsMeanwhileAreWhole(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := storetest.NewKey(t)
		record(t, databaseURL, key)
		if out, err := run(t, "--database-url", databaseURL); err != nil || !strings.HasPrefix(out, "The log is whole: 0 events") {
			t.Errorf("empty: %v\n%s", err, out)
		}
		stop, ended := make(chan struct{}), make(chan struct{})
		began := make(chan struct{})
		go func() {
			defer close(ended)
			for n := 0; ; n += 10 {
				record(t, databaseURL, key, records(n, n+10)...)
				if n == 300 {
					close(began)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		<-began
		for range 10 {
			if out, err := run(t, "--database-url", databaseURL); err != nil {
				t.Errorf("growing: %v\n%s", err, out)
			}
		}
		close(stop)
		<-ended
	})
}

// expiring is a log of which an event expires before its rows are read.
type expiring struct {
	datastorage.Reader
	expire func()
}

func (r *expiring) Rows(ctx context.Context, from, to int64, limit int) ([]datastorage.Row, error) {
	r.expire()
	return r.Reader.Rows(ctx, from, to, limit)
}

func TestEventsMayExpireMeanwhile(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		store, closeStore := open(t, databaseURL)
		defer closeStore()
		now := time.Now()
		past := &storetest.At{Store: store, Time: now.Add(-2 * storetest.Day)}
		log := storetest.OpenLog(t, past)
		if _, err := log.Append(t.Context(), records(0, 3)); err != nil {
			t.Fatal(err)
		}
		past.Time = now
		expire := sync.OnceFunc(func() {
			if n, err := log.Expire(t.Context(), now, 1); n != 3 || err != nil {
				t.Errorf("expired %d, %v", n, err)
			}
		})
		scheme, _, _ := strings.Cut(databaseURL, ":")
		openReader := func(ctx context.Context, url string) (datastorage.Reader, func() error, error) {
			reader, closeReader, err := readers[scheme](ctx, url)
			return &expiring{reader, expire}, closeReader, err
		}
		var out bytes.Buffer
		err := verify.Main(t.Context(), []string{"--database-url", databaseURL}, &out, io.Discard, map[string]datastorage.ReadOpener{scheme: openReader})
		// That it was recorded at another time than the checkpoints were signed is true.
		if got := strings.Count(out.String(), "its recorded_at was changed"); err == nil || err.Error() != fmt.Sprintf("verification ended with findings: %d", got) {
			t.Errorf("%v\n%s", err, &out)
		}
	})
}

// A log of more than 65,536 events has a tile above those above the leaves'.
func TestTilesOfUpperLevelsAreCompared(t *testing.T) {
	url, key := "sqlite:"+t.TempDir()+"/log.db", storetest.NewKey(t)
	const size = ledger.TileWidth*ledger.TileWidth + 10
	record(t, url, key, records(0, size)...)
	if out, err := run(t, "--database-url", url); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct{ sql, want string }{
		{"UPDATE audit_tiles SET hashes = zeroblob(8192) WHERE level = 1", "1. tile 0 of level 1 was changed: it does not have the hashes of the tiles below it\n"},
		{"DELETE FROM audit_tiles WHERE level = 1", "1. tile 0 of level 1 is missing: it was deleted\n"},
		{"UPDATE audit_bodies SET event = '{}' WHERE log_index >= 20000", "event 20000 (" + eventID(20000) + "): its bytes were changed"}, // too many to keep
	} {
		storetest.Change(t, url, tt.sql)
		if out, err := run(t, "--database-url", url); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v\n%s", tt.sql, err, out)
		}
	}
}

// A table that has lost its primary key can have an index twice.
func TestASecondEventOfAnIndexIsFoundWhereverItStands(t *testing.T) {
	url, key := storetest.SharedPostgres(t).NewDatabase(t), storetest.NewKey(t)
	record(t, url, key, records(0, 1100)...)
	storetest.Change(t, url, "ALTER TABLE audit_events DROP CONSTRAINT audit_events_pkey; ALTER TABLE audit_bodies DROP CONSTRAINT audit_bodies_pkey")
	for _, index := range []int{0, 500, 998, 999, 1000, 1099} {
		tampered := copied(t, url)
		storetest.Change(t, tampered, dialect{postgres: true}.row(index, storetest.Record(5000)))
		out, err := run(t, "--database-url", tampered)
		if err == nil || !strings.Contains(out, "it was put in: another event has its index") {
			t.Errorf("index %d: %v\n%s", index, err, out)
		}
	}
}

// Nothing is said of checkpoints of events that are missing, nor of those before them.
func TestOfMissingEventsNoCheckpointIsAccused(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := storetest.NewKey(t)
		var given strings.Builder
		const size = 30
		for n := range size {
			given.WriteString(record(t, databaseURL, key, storetest.Record(n)) + "\n")
		}
		checkpoints := write(t, given.String())
		out, err := run(t, "--database-url", databaseURL, "--checkpoint", checkpoints)
		if want := fmt.Sprintf(" %d given with --checkpoint.", size); err != nil || !strings.Contains(out, want) {
			t.Fatalf("untouched: %v\n%s", err, out)
		}
		for _, gone := range [][2]int{{0, 0}, {0, 6}, {3, 3}, {7, 21}, {1, 28}, {28, 28}, {20, 29}, {29, 29}, {0, 29}} {
			url := copied(t, databaseURL)
			storetest.Change(t, url, fmt.Sprintf("DELETE FROM audit_events WHERE log_index BETWEEN %d AND %d", gone[0], gone[1]))
			want := fmt.Sprintf("1. the events %d to %d are missing: they were deleted\n", gone[0], gone[1])
			if gone[0] == gone[1] {
				want = fmt.Sprintf("1. event %d is missing: it was deleted\n", gone[0])
			}
			out, err := run(t, "--database-url", url, "--checkpoint", checkpoints)
			if err == nil || !strings.Contains(out, want) || !strings.Contains(err.Error(), "findings: 1") {
				t.Errorf("%v: %v\n%s", gone, err, out)
			}
		}
	})
}
