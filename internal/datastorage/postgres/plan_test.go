package postgres

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// recorder keeps the statements that are run.
type recorder struct{ asked []pgx.QueuedQuery }

func (r *recorder) note(statement string, args []any) {
	r.asked = append(r.asked, pgx.QueuedQuery{SQL: statement, Arguments: args})
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.note(data.SQL, data.Args)
	return ctx
}

func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (r *recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.note(data.SQL, data.Args)
}

func (r *recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

const explains = "EXPLAIN (COSTS OFF) "

var (
	planned = regexp.MustCompile(`^(SELECT|DELETE|WITH)\b`)
	whole   = regexp.MustCompile(`Seq Scan on audit_(events|bodies|tiles|checkpoints)`)
	sorted  = regexp.MustCompile(`(?m)^ *(->  )?(Incremental )?Sort`)
	steps   = regexp.MustCompile(`Scan (Backward )?using (\w+) on audit_events.*(?:\n *Index Cond: (.*))?`)
)

// explain returns the plan of one of the statements that are asked, or an empty string
// where it needs none: for its arguments, or for any that may come.
func explain(t *testing.T, conn *pgx.Conn, q pgx.QueuedQuery, generic bool) string {
	t.Helper()
	if !planned.MatchString(q.SQL) {
		return ""
	}
	statement, args := explains+q.SQL, q.Arguments
	if generic {
		if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan; PREPARE asked AS "+q.SQL); err != nil {
			t.Fatalf("%s: %v", q.SQL, err)
		}
		statement, args = explains+"EXECUTE asked", []any{pgx.QueryExecModeSimpleProtocol}
		if n := len(q.Arguments); n > 0 {
			statement += "(NULL" + strings.Repeat(", NULL", n-1) + ")"
		}
	}
	rows, err := conn.Query(t.Context(), statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", q.SQL, err)
	}
	if generic {
		if _, err := conn.Exec(t.Context(), "DEALLOCATE asked"); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(plan, "\n") + "\n"
}

// filled returns a store of the events of storetest.Fill, what it asks, and a
// connection to explain that on.
func filled(t *testing.T, now time.Time) (*store, *recorder, *pgx.Conn) {
	t.Helper()
	url := storetest.SharedPostgres(t).NewDatabase(t)
	storetest.Fill(t, opened(t, url), now)

	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	asked := &recorder{}
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if err := prepare(t.Context(), conn, false); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "VACUUM ANALYZE"); err != nil {
		t.Fatal(err)
	}
	return &store{pool: pool, writer: pool}, asked, conn
}

func TestEachFilterIsFollowedByItsIndexAlone(t *testing.T) {
	s, asked, conn := filled(t, time.Now().UTC())
	for name, way := range storetest.Ways() {
		t.Run(name, func(t *testing.T) {
			asked.asked = nil
			if _, err := s.Query(t.Context(), way.Filter); err != nil {
				t.Fatal(err)
			}
			for _, generic := range []bool{false, true} {
				plan := ""
				for _, q := range asked.asked {
					plan += explain(t, conn, q, generic)
				}
				if checkWay(t, way, plan); t.Failed() {
					t.Fatalf("generic %v:\n%s", generic, plan)
				}
			}
		})
	}
}

// checkWay checks the plan of what counts the events of a way, and of what reads them.
func checkWay(t *testing.T, way storetest.Way, plan string) {
	t.Helper()
	found, want := steps.FindAllStringSubmatch(plan, -1), 2
	if way.Filter.All() {
		want = 1
	}
	if len(found) != want || whole.MatchString(plan) || sorted.MatchString(plan) {
		t.Errorf("the plan has %d steps along indices, want %d and no others", len(found), want)
	}
	var bounds []string
	for _, column := range way.Columns {
		bounds = append(bounds, column+" = ")
	}
	if !way.Filter.Since.IsZero() {
		bounds = append(bounds, "event_timestamp >= ")
	}
	for n, step := range found {
		if way.Filter.After != nil && n == want-1 {
			bounds = append(bounds, "ROW(event_timestamp, log_index) < ")
		}
		for _, bound := range bounds {
			if !strings.Contains(step[3], bound) {
				t.Errorf("step %d does not look up %s", n, bound)
			}
		}
		if step[1] == "" || step[2] != way.Index {
			t.Errorf("step %d is not back along %s", n, way.Index)
		}
	}
}

func TestNoQueryReadsOrSortsMoreThanIsAskedFor(t *testing.T) {
	now := time.Now().UTC()
	s, asked, conn := filled(t, now)
	query := func(filter datastorage.Filter) func() error {
		return func() error {
			_, err := s.Query(t.Context(), filter)
			return err
		}
	}
	ids := make([]uuid.UUID, 1000)
	for n := range ids {
		ids[n] = storetest.Record(n).Event.EventID
	}
	old, new := now.Add(-60*storetest.Day).Format(partition), now.Format(partition)
	for name, tt := range map[string]struct {
		ask  func() error
		want []string
		few  bool // what is sorted is no more than what is asked for
	}{
		"the newest":  {query(datastorage.Filter{Limit: 10}), []string{"audit_log_head", "Index Scan using " + new + "_pkey"}, false},
		"old ones":    {query(datastorage.Filter{Limit: 10, Until: storetest.Epoch}), []string{"Index Scan using " + old + "_pkey"}, false},
		"an event ID": {query(datastorage.Filter{Limit: 10, Equal: map[string]string{"event_id": ids[7].String()}}), []string{"Index Scan using audit_events_event_id_key"}, true},
		"event IDs":   {query(datastorage.Filter{Limit: 10, IDs: ids[:10]}), []string{"audit_events_event_id_key"}, true},
		"what is sent and stored already": {func() error {
			return s.Append(t.Context(), ids, func(datastorage.Known) (datastorage.Addition, error) { return datastorage.Addition{}, nil })
		}, []string{"Index Scan using audit_events_event_id_key"}, false},
		"what has expired": {func() error {
			_, err := reader{s.pool}.Expirable(t.Context(), &datastorage.Sweep{Now: now, Policy: now.Add(-40 * storetest.Day)}, 1000)
			return err
		}, []string{old + "_expires_at_idx", "Index Scan using audit_events_pkey"}, true},
		"rows":        {func() error { _, err := s.Rows(t.Context(), 5000, 6000, 1000); return err }, []string{"Index Scan using audit_events_pkey", old + "_pkey"}, false},
		"leaf hashes": {func() error { _, err := s.Hashes(t.Context(), datastorage.Leaves, 256, 512); return err }, []string{"Index Scan using audit_events_pkey"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked.asked = nil
			if err := tt.ask(); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, q := range asked.asked {
				got += explain(t, conn, q, false)
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is no step of the plan", want)
				}
			}
			if whole.MatchString(got) || sorted.MatchString(got) && !tt.few {
				t.Error("the plan reads or sorts more than is asked for")
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}
