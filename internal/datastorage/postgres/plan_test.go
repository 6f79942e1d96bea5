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

var (
	planned  = regexp.MustCompile(`^(SELECT|DELETE|WITH)\b`)
	whole    = regexp.MustCompile(`Seq Scan on audit_(events|bodies|tiles|checkpoints)`)
	sorted   = regexp.MustCompile(`(?m)^ *(->  )?(Incremental )?Sort`)
	explains = "EXPLAIN (COSTS OFF) "
)

func plans(t *testing.T, conn *pgx.Conn, asked []pgx.QueuedQuery) string {
	t.Helper()
	var lines []string
	for _, q := range asked {
		if !planned.MatchString(q.SQL) {
			continue
		}
		rows, err := conn.Query(t.Context(), explains+q.SQL, q.Arguments...)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", q.SQL, err)
		}
		lines = append(lines, plan...)
	}
	return strings.Join(lines, "\n")
}

func TestNoQueryReadsOrSortsMoreThanIsAskedFor(t *testing.T) {
	url := storetest.SharedPostgres(t).NewDatabase(t)
	plain, closeStore, err := Open(t.Context(), url, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Now().UTC()
	storetest.Fill(t, plain, now)

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
	defer pool.Close()
	s := &store{pool: pool}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "VACUUM ANALYZE"); err != nil {
		t.Fatal(err)
	}

	query := func(edits ...func(*datastorage.Filter)) func() error {
		return func() error {
			filter := datastorage.Filter{Limit: 10}
			for _, edit := range edits {
				edit(&filter)
			}
			_, err := s.Query(t.Context(), filter)
			return err
		}
	}
	equal := func(column, value string) func(*datastorage.Filter) {
		return func(f *datastorage.Filter) { f.Equal = map[string]string{column: value} }
	}
	middle := func(f *datastorage.Filter) {
		f.After = &datastorage.Cursor{Micros: storetest.Record(10_000).Event.EventTimestamp.UnixMicro(), LogIndex: 10_000}
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
		"the newest":                  {query(), []string{"Index Scan Backward using audit_events_time", "Seq Scan on audit_log_head", "Index Scan using " + new + "_pkey"}, false},
		"a page in the middle of all": {query(middle), []string{"Index Scan Backward using audit_events_time", "Index Cond: (ROW(event_timestamp, log_index) <", "Index Scan using " + old + "_pkey"}, false},
		"a correlation ID":            {query(equal("correlation_id", "outage")), []string{"Index Only Scan using audit_events_correlation", "Index Scan Backward using audit_events_correlation"}, false},
		"a correlation ID, from the middle on": {query(equal("correlation_id", "outage"), middle), []string{
			"Index Scan Backward using audit_events_correlation", "Index Cond: ((correlation_id = 'outage'::text) AND (ROW(event_timestamp, log_index) <",
		}, false},
		"a correlation ID of few": {query(equal("correlation_id", "incident-7")), []string{"audit_events_correlation"}, true},
		"a resource":              {query(equal("resource_id", "outage")), []string{"Index Scan Backward using audit_events_resource"}, false},
		"a time": {query(func(f *datastorage.Filter) {
			f.Since, f.Until = storetest.Epoch, storetest.Epoch.Add(time.Millisecond)
		}), []string{"Index Scan Backward using audit_events_time", "Index Cond: ((event_timestamp >="}, false},
		"an event ID": {query(equal("event_id", ids[7].String())), []string{"Index Scan using audit_events_event_id_key"}, true},
		"event IDs":   {query(func(f *datastorage.Filter) { f.IDs = ids[:10] }), []string{"audit_events_event_id_key"}, true},
		"what is sent and stored already": {func() error {
			return s.Append(t.Context(), ids, func(datastorage.Known) (datastorage.Addition, error) { return datastorage.Addition{}, nil })
		}, []string{"Index Scan using audit_events_event_id_key"}, false},
		"what has expired": {func() error {
			_, err := reader{pool}.Expirable(t.Context(), &datastorage.Sweep{Now: now, Policy: now.Add(-40 * storetest.Day)}, 1000)
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
			got := plans(t, conn, asked.asked)
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
