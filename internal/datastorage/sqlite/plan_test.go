package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// explainer asks of each statement how SQLite goes about it.
type explainer struct {
	*sql.DB
	t     *testing.T
	steps []string
}

func (e *explainer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	e.explain(query, args)
	return e.DB.QueryContext(ctx, query, args...)
}

func (e *explainer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	e.explain(query, args)
	return e.DB.QueryRowContext(ctx, query, args...)
}

func (e *explainer) explain(query string, args []any) {
	e.t.Helper()
	rows, err := e.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		e.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			e.t.Fatal(err)
		}
		e.steps = append(e.steps, step)
	}
	if err := rows.Err(); err != nil {
		e.t.Fatal(err)
	}
}

var (
	whole  = regexp.MustCompile(`(?m)^SCAN (e|b|old|audit_\w+)$`)
	sorted = regexp.MustCompile(`(?m)^USE TEMP B-TREE`)
)

// SQLite knows no more of a table than its indices, unless somebody has had them
// analyzed. It must find the same way with both.
func TestNoQueryReadsOrSortsMoreThanIsAskedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	store, closeStore, err := Open(t.Context(), "sqlite:"+path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Now().UTC()
	storetest.Fill(t, store, now)
	db, err := connect(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	query := func(edits ...func(*datastorage.Filter)) func(reader) error {
		return func(r reader) error {
			filter := datastorage.Filter{Limit: 10}
			for _, edit := range edits {
				edit(&filter)
			}
			_, err := r.query(t.Context(), filter)
			return err
		}
	}
	equal := func(column, value string) func(*datastorage.Filter) {
		return func(f *datastorage.Filter) { f.Equal = map[string]string{column: value} }
	}
	middle := func(f *datastorage.Filter) {
		f.After = &datastorage.Cursor{Micros: storetest.Record(10_000).Event.EventTimestamp.UnixMicro(), LogIndex: 10_000}
	}
	ids := []uuid.UUID{storetest.Record(7).Event.EventID}
	for name, tt := range map[string]struct {
		ask  func(reader) error
		want []string
		few  bool // what is sorted is no more than what is asked for
	}{
		"the newest":                  {query(), []string{"SCAN e USING INDEX audit_events_time", "SEARCH b USING INTEGER PRIMARY KEY", "SCAN audit_log_head"}, false},
		"a page in the middle of all": {query(middle), []string{"SEARCH e USING INDEX audit_events_time (event_timestamp<?)"}, false},
		"a correlation ID": {query(equal("correlation_id", "outage")), []string{
			"SEARCH audit_events USING COVERING INDEX audit_events_correlation (correlation_id=?)", "SEARCH e USING INDEX audit_events_correlation (correlation_id=?)",
		}, false},
		"a correlation ID, from the middle on": {query(equal("correlation_id", "outage"), middle), []string{"SEARCH e USING INDEX audit_events_correlation (correlation_id=? AND event_timestamp<?)"}, false},
		"a resource":                           {query(equal("resource_id", "outage")), []string{"SEARCH e USING INDEX audit_events_resource (resource_id=?)"}, false},
		"a time": {query(func(f *datastorage.Filter) {
			f.Since, f.Until = storetest.Epoch, storetest.Epoch.Add(time.Millisecond)
		}), []string{"SEARCH e USING INDEX audit_events_time (event_timestamp>? AND event_timestamp<?)"}, false},
		"an event ID": {query(equal("event_id", ids[0].String())), []string{"SEARCH e USING INDEX sqlite_autoindex_audit_events_1 (event_id=?)"}, true},
		"event IDs":   {query(func(f *datastorage.Filter) { f.IDs = ids }), []string{"SEARCH e USING INDEX sqlite_autoindex_audit_events_1 (event_id=?)"}, true},
		"what is sent and stored already": {func(r reader) error {
			_, err := find(t.Context(), r.querier, ids)
			return err
		}, []string{"SEARCH audit_events USING INDEX sqlite_autoindex_audit_events_1 (event_id=?)"}, false},
		"what has expired": {func(r reader) error {
			_, err := r.Expirable(t.Context(), &datastorage.Sweep{Now: now, Policy: now.Add(-40 * storetest.Day)}, 1000)
			return err
		}, []string{
			"SEARCH old USING INDEX audit_bodies_expiry (expires_at>? AND expires_at<?)", "SEARCH old USING INDEX audit_bodies_recorded (recorded_at>? AND recorded_at<?)",
			"SEARCH audit_holds USING COVERING INDEX", "SEARCH e USING INTEGER PRIMARY KEY",
		}, true},
		"leaf hashes": {func(r reader) error {
			_, err := r.Hashes(t.Context(), datastorage.Leaves, 256, 512)
			return err
		}, []string{"SEARCH audit_events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"}, false},
		"a tile": {func(r reader) error {
			_, err := r.Hashes(t.Context(), 0, 3, 4)
			return err
		}, []string{"SEARCH audit_tiles USING INDEX sqlite_autoindex_audit_tiles_1 (level=? AND tile_index>? AND tile_index<?)"}, false},
	} {
		for _, analyzed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, analyzed %v", name, analyzed), func(t *testing.T) {
				statement := "ANALYZE"
				if !analyzed {
					statement = "DROP TABLE IF EXISTS sqlite_stat1"
				}
				if _, err := db.Exec(statement); err != nil {
					t.Fatal(err)
				}
				e := &explainer{DB: db, t: t}
				if err := tt.ask(reader{e}); err != nil {
					t.Fatal(err)
				}
				plan := strings.Join(e.steps, "\n")
				for _, want := range tt.want {
					if !strings.Contains(plan, want) {
						t.Errorf("%q is no step of the plan", want)
					}
				}
				if found := whole.FindString(plan); found != "" && found != "SCAN audit_log_head" || sorted.MatchString(plan) && !tt.few {
					t.Error("the plan reads or sorts more than is asked for")
				}
				if t.Failed() {
					t.Log(plan)
				}
			})
		}
	}
}
