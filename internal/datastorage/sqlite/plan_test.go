package sqlite

import (
	"context"
	"database/sql"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// explainer asks of each statement how SQLite goes about it, and answers with nothing.
type explainer struct {
	*sql.DB
	t     *testing.T
	steps []string
}

func (e *explainer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	e.explain(query, args)
	return e.DB.QueryContext(ctx, "SELECT 0 WHERE FALSE")
}

func (e *explainer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	e.explain(query, args)
	return e.DB.QueryRowContext(ctx, "SELECT 0")
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
	steps  = regexp.MustCompile(`(?m)^(?:SEARCH|SCAN) (?:e|audit_events) USING (?:COVERING )?INDEX (\w+)(?: \((.*)\))?$`)
)

// SQLite knows no more of a table than its indices, unless somebody has had them
// analyzed. It must find the same way with both.
func onBoth(t *testing.T, test func(t *testing.T, db *sql.DB)) {
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
	storetest.Fill(t, store, time.Now().UTC())
	db, err := connect(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	t.Run("as it is made", func(t *testing.T) { test(t, db) })
	if _, err := db.Exec("ANALYZE"); err != nil {
		t.Fatal(err)
	}
	t.Run("analyzed", func(t *testing.T) { test(t, db) })
}

func TestEachFilterIsFollowedByItsIndexAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sql.DB) {
		for name, way := range storetest.Ways() {
			t.Run(name, func(t *testing.T) {
				e := &explainer{DB: db, t: t}
				if _, err := (reader{e}).query(t.Context(), way.Filter); err != nil {
					t.Fatal(err)
				}
				plan := strings.Join(e.steps, "\n")
				found := steps.FindAllStringSubmatch(plan, -1)
				want := 2 // to count and to read
				if way.Filter.All() {
					want = 1
				}
				if len(found) != want || sorted.MatchString(plan) {
					t.Errorf("the plan has %d steps along indices, want %d", len(found), want)
				}
				var bounds []string
				if way.Columns != nil {
					bounds = append(bounds, way.Columns[0]+"=?")
				}
				if !way.Filter.Since.IsZero() {
					bounds = append(bounds, "event_timestamp>?")
				}
				for n, step := range found {
					if way.Filter.After != nil && n == want-1 {
						bounds = append(bounds, "event_timestamp<?")
					}
					if step[1] != way.Index || step[2] != strings.Join(bounds, " AND ") {
						t.Errorf("step %d goes along %s by %q, want %s by %q", n, step[1], step[2], way.Index, bounds)
					}
				}
				if t.Failed() {
					t.Log(plan)
				}
			})
		}
	})
}

func TestNoQueryReadsOrSortsMoreThanIsAskedFor(t *testing.T) {
	now := time.Now().UTC()
	query := func(filter datastorage.Filter) func(reader) error {
		return func(r reader) error {
			_, err := r.query(t.Context(), filter)
			return err
		}
	}
	ids := []uuid.UUID{storetest.Record(7).Event.EventID}
	tests := map[string]struct {
		ask  func(reader) error
		want []string
		few  bool // what is sorted is no more than what is asked for
	}{
		"the newest":  {query(datastorage.Filter{Limit: 10}), []string{"SCAN audit_log_head", "SEARCH b USING INTEGER PRIMARY KEY"}, false},
		"an event ID": {query(datastorage.Filter{Limit: 10, Equal: map[string]string{"event_id": ids[0].String()}}), []string{"SEARCH e USING INDEX sqlite_autoindex_audit_events_1 (event_id=?)"}, true},
		"event IDs":   {query(datastorage.Filter{Limit: 10, IDs: ids}), []string{"SEARCH e USING INDEX sqlite_autoindex_audit_events_1 (event_id=?)"}, true},
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
	}
	onBoth(t, func(t *testing.T, db *sql.DB) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
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
	})
}
