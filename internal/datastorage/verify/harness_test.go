package verify_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/datastorage/verify"
	"kubernaut.ai/notification/internal/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(storetest.Exit)) }

var openers = map[string]datastorage.Opener{"sqlite": sqlite.Open, "postgres": postgres.Open}

var readers = map[string]datastorage.ReadOpener{"sqlite": sqlite.OpenReader, "postgres": postgres.OpenReader}

// run runs datastorage verify and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := verify.Main(t.Context(), args, &out, io.Discard, readers)
	return out.String(), err
}

// open opens a database until the second result is called.
func open(t *testing.T, databaseURL string) (datastorage.Store, func()) {
	t.Helper()
	scheme, _, _ := strings.Cut(databaseURL, ":")
	store, closeStore, err := openers[scheme](t.Context(), databaseURL, false)
	if err != nil {
		t.Fatal(err)
	}
	return store, func() {
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	}
}

// record appends events to the log of a database, closes it, and returns the last
// checkpoint. Opening a log keeps a checkpoint of the size that it has then.
func record(t *testing.T, databaseURL string, key *ledger.Key, records ...datastorage.Record) string {
	t.Helper()
	store, closeStore := open(t, databaseURL)
	defer closeStore()
	log, err := datastorage.OpenLog(t.Context(), store, key)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var checkpoint string
	for len(records) > 0 {
		some := records[:min(len(records), 1000)]
		outcome, err := log.Append(t.Context(), some)
		if err != nil {
			t.Fatal(err)
		}
		records, checkpoint = records[len(some):], outcome.Checkpoint
	}
	return checkpoint
}

func records(from, to int) []datastorage.Record {
	var list []datastorage.Record
	for n := from; n < to; n++ {
		list = append(list, storetest.Record(n))
	}
	return list
}

const (
	half = 300
	full = 2*ledger.TileWidth + 100
)

// evidence is a log of full events, with what somebody has of it elsewhere.
type evidence struct {
	url         string
	key         *ledger.Key
	first, last string // checkpoints of half and of full
}

func newEvidence(t *testing.T, databaseURL string) *evidence {
	t.Helper()
	e := &evidence{url: databaseURL, key: storetest.NewKey(t)}
	e.first = record(t, e.url, e.key, records(0, half)...)
	e.last = record(t, e.url, e.key, records(half, full)...)
	record(t, e.url, e.key)
	return e
}

// copied returns the URL of a copy of a database that nobody has open.
func copied(t *testing.T, databaseURL string) string {
	t.Helper()
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return "sqlite:" + path
	}
	server := storetest.SharedPostgres(t)
	url := server.NewDatabase(t)
	name := func(url string) string {
		name, _, _ := strings.Cut(strings.TrimPrefix(url, "postgres:///"), "?")
		return name
	}
	server.Exec(t, "postgres", "DROP DATABASE "+name(url))
	server.Exec(t, "postgres", "CREATE DATABASE "+name(url)+" TEMPLATE "+name(databaseURL))
	return url
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "given")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// dialect writes values as a database has them.
type dialect struct{ postgres bool }

func (d dialect) bytes(b []byte) string {
	if d.postgres {
		return `'\x` + hex.EncodeToString(b) + `'`
	}
	return "X'" + hex.EncodeToString(b) + "'"
}

func (d dialect) hash(r datastorage.Record) string { return d.bytes(r.LeafHash[:]) }

func (d dialect) micros(sql string) string {
	if d.postgres {
		return sql + " + interval '1 microsecond'"
	}
	return sql + " + 1"
}

func (d dialect) text(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// row is an INSERT of a record with an index.
func (d dialect) row(index int, r datastorage.Record) string {
	at, when := "(SELECT recorded_at FROM audit_events LIMIT 1)", fmt.Sprint(r.Event.EventTimestamp.UnixMicro())
	if d.postgres {
		when = d.text(r.Event.EventTimestamp.Format("2006-01-02T15:04:05.999999Z07:00"))
	}
	return fmt.Sprintf(`INSERT INTO audit_events (log_index, event_id, event_timestamp, event_type, event_category, event_outcome, correlation_id,
		severity, resource_id, namespace, recorded_at, leaf_hash) VALUES (%d, '%s', %s, '%s', '%s', '%s', '%s', '%s', '%s', '%s', %s, %s);
		INSERT INTO audit_bodies (log_index, recorded_at, event) SELECT log_index, recorded_at, %s FROM audit_events WHERE log_index = %[1]d;`,
		index, r.Event.EventID, when, r.Event.EventType, r.Event.EventCategory, r.Event.EventOutcome, r.Event.CorrelationID,
		r.Event.Severity, r.Event.ResourceID, r.Event.Namespace, at, d.bytes(r.LeafHash[:]), d.text(string(r.Body)))
}

// rewritten is the n-th event with other content.
func rewritten(n int) datastorage.Record {
	return storetest.Record(n, func(e *audit.Event) { e.EventAction = "seen" })
}

func (d dialect) rewrite(n int) string {
	r := rewritten(n)
	return fmt.Sprintf("UPDATE audit_bodies SET event = %s WHERE log_index = %d; UPDATE audit_events SET leaf_hash = %s WHERE log_index = %[2]d;", d.text(string(r.Body)), n, d.bytes(r.LeafHash[:]))
}

// both does to the bodies what is done to the events.
func both(sql string) string { return sql + strings.ReplaceAll(sql, "audit_events", "audit_bodies") }

const (
	down = "UPDATE audit_events SET log_index = -log_index - 2 WHERE log_index >= 100; UPDATE audit_events SET log_index = -log_index - 1 WHERE log_index < 0;"
	up   = "UPDATE audit_events SET log_index = -log_index WHERE log_index > 100; UPDATE audit_events SET log_index = -log_index - 1 WHERE log_index < 0;"
	swap = "UPDATE audit_events SET log_index = -1 WHERE log_index = %[1]d; UPDATE audit_events SET log_index = %[1]d WHERE log_index = %[2]d; UPDATE audit_events SET log_index = %[2]d WHERE log_index = -1;"
)

// tile is an UPDATE of the hash of an event in its tile.
func (d dialect) tile(n int, hash ledger.Hash) string {
	at := n % ledger.TileWidth * len(hash)
	if d.postgres {
		return fmt.Sprintf("UPDATE audit_tiles SET hashes = overlay(hashes placing %s from %d) WHERE level = 0 AND tile_index = %d;", d.bytes(hash[:]), at+1, n/ledger.TileWidth)
	}
	return fmt.Sprintf("UPDATE audit_tiles SET hashes = CAST(substr(hashes, 1, %d) || %s || substr(hashes, %d) AS BLOB) WHERE level = 0 AND tile_index = %d;", at, d.bytes(hash[:]), at+len(hash)+1, n/ledger.TileWidth)
}

// eventID is that of the n-th event.
func eventID(n int) string { return storetest.Record(n).Event.EventID.String() }

// onBothBackends runs a test on an empty SQLite and an empty PostgreSQL database.
func onBothBackends(t *testing.T, test func(t *testing.T, databaseURL string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, storetest.SharedPostgres(t).NewDatabase(t)) })
}
