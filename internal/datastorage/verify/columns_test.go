package verify_test

import (
	"bytes"
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// harmless are the columns that nothing is told by: what is no part of the log, or
// says no more than an order that is checked besides.
var harmless = map[string]bool{
	"audit_checkpoints.id": true, "audit_conflicts.event_id": true, "audit_conflicts.leaf_hash": true,
	"audit_conflicts.received_at": true, "audit_conflicts.event": true,
}

// findings begin what is said where the column is not what it was, in the last row.
func findings(last int) map[string]string {
	event := fmt.Sprintf("event %d (%s): ", last, eventID(last))
	changed, gone := event+"its columns were changed: ", event+"its bytes were deleted, or its recorded_at was changed"
	const hold = ` was changed, or taken out of the database: event `
	return map[string]string{
		"audit_events.log_index":       fmt.Sprintf("event %d is missing: it was deleted", last),
		"audit_events.event_id":        "its columns were changed: event_id holds ",
		"audit_events.event_timestamp": changed + "event_timestamp holds ",
		"audit_events.event_type":      changed + "event_type holds ",
		"audit_events.event_category":  changed + "event_category holds ",
		"audit_events.event_outcome":   changed + "event_outcome holds ",
		"audit_events.correlation_id":  changed + "correlation_id holds ",
		"audit_events.severity":        changed + "severity holds ",
		"audit_events.resource_id":     changed + "resource_id holds ",
		"audit_events.namespace":       changed + "namespace holds ",
		"audit_events.recorded_at":     gone,
		"audit_events.leaf_hash":       event + "its leaf_hash was changed",
		"audit_bodies.log_index":       gone,
		"audit_bodies.recorded_at":     gone,
		"audit_bodies.expires_at":      changed + "expires_at holds ",
		"audit_bodies.event":           event + "its bytes were changed",
		"audit_log_head.size":          "the head of the log was changed: ",
		"audit_log_head.checkpoint":    "the checkpoint in the head of the log is not signed with the log's key: ",
		"audit_log_head.verifier":      " in the head of the log is damaged",
		"audit_tiles.level":            "tile 1 of level 0 is missing: it was deleted",
		"audit_tiles.tile_index":       "tile 1 of level 0 is missing: it was deleted",
		"audit_tiles.hashes":           "tile 1 of level 0 was changed where the event's hash is",
		"audit_checkpoints.size":       "the kept checkpoint 2 of ",
		"audit_checkpoints.checkpoint": "the kept checkpoint 2 of ",
		"audit_holds.correlation_id":   `the legal hold on "held"` + hold,
		"audit_holds.reason":           `the legal hold on "held"` + hold,
		"audit_holds.placed_by":        `the legal hold on "held"` + hold,
		"audit_holds.placed_at":        `the legal hold on "held"` + hold,
	}
}

// recordOfAll begins a log that has a row in each table, and returns the index of
// its last event, which is to be kept for 30 days.
func recordOfAll(t *testing.T, databaseURL string) (last int) {
	t.Helper()
	store, closeStore := open(t, databaseURL)
	defer closeStore()
	key := storetest.NewKey(t)
	for _, some := range [][]datastorage.Record{records(0, half), records(half, full)} {
		log, err := datastorage.OpenLog(t.Context(), store, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = log.Append(t.Context(), some); err == nil {
			_, err = log.Append(t.Context(), []datastorage.Record{rewritten(0)})
		}
		if !errors.As(err, new(*datastorage.ConflictError)) {
			t.Fatal(err)
		}
		log.Close()
	}
	log, err := datastorage.OpenLog(t.Context(), store, key)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.PlaceHold(t.Context(), datastorage.Hold{CorrelationID: "held", Reason: "case 7", PlacedBy: "alice"}); err != nil {
		t.Fatal(err)
	}
	last = full + 1
	if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Keep(storetest.Record(last), 30)}); err != nil {
		t.Fatal(err)
	}
	return last
}

// columns are those of all tables of the log, as table.column.
func columns(t *testing.T, db *sql.DB, postgres bool) (names []string) {
	t.Helper()
	query := "SELECT m.name || '.' || c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name LIKE 'audit\\_%' ESCAPE '\\'"
	if postgres {
		query = `SELECT relname || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
			WHERE relkind IN ('r', 'p') AND NOT relispartition AND relname LIKE 'audit\_%' AND attnum > 0 AND NOT attisdropped`
	}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// flipped is a value of which one bit is another.
func flipped(t *testing.T, value any) any {
	switch v := value.(type) {
	case int64:
		return v + 1
	case time.Time:
		return v.Add(time.Microsecond)
	case []byte:
		v = bytes.Clone(v)
		v[len(v)-1] ^= 1
		return v
	case string:
		return v[:len(v)-1] + string(v[len(v)-1]^1)
	}
	t.Fatalf("there is a %T", value)
	return nil
}

// Whoever adds a column has to say how a change of it is found.
func TestAByteInAnyColumnOfTheSchemaIsFoundAndNamed(t *testing.T) {
	const last = "log_index = (SELECT max(log_index) FROM audit_events)"
	where := map[string]string{"audit_tiles": "level = 0 AND tile_index = 1", "audit_checkpoints": "id = 2", "audit_events": last, "audit_bodies": last}
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		want := findings(recordOfAll(t, databaseURL))
		whole := func(when string) {
			t.Helper()
			if out, err := run(t, "--database-url", databaseURL); err != nil {
				t.Fatalf("%s: %v\n%s", when, err, out)
			}
		}
		whole("untouched")
		db := storetest.Connect(t, databaseURL)
		for _, name := range columns(t, db, strings.HasPrefix(databaseURL, "postgres")) {
			if harmless[name] || name == "audit_log_head.id" { // which a constraint keeps
				continue
			}
			table, column, _ := strings.Cut(name, ".")
			rows := cmp.Or(where[table], "TRUE")
			var value any
			if err := db.QueryRowContext(t.Context(), "SELECT "+column+" FROM "+table+" WHERE "+rows).Scan(&value); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			set := func(to any, where string, args ...any) {
				t.Helper()
				changed, err := db.ExecContext(t.Context(), "UPDATE "+table+" SET "+column+" = $1 WHERE "+where, append([]any{to}, args...)...)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if n, err := changed.RowsAffected(); n != 1 || err != nil {
					t.Fatalf("%s: %d rows changed, %v", name, n, err)
				}
			}
			other := flipped(t, value)
			set(other, rows)
			out, err := run(t, "--database-url", databaseURL)
			if err == nil || want[name] == "" || !strings.Contains(out, want[name]) {
				t.Errorf("%s: %v\n%s\nwant %s", name, err, out, want[name])
			}
			delete(want, name)
			set(value, column+" = $2", other)
		}
		if len(want) > 0 {
			t.Errorf("of these there is no column: %v", slices.Sorted(maps.Keys(want)))
		}
		whole("as it was again")
	})
}
