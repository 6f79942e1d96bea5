package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage"
)

// Query is as datastorage.Store says. Total and page are of one snapshot. It takes two
// round trips: each is a wait for a processor on both sides.
func (s *store) Query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	var page datastorage.Page
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return page, fmt.Errorf("begin query: %w", err)
	}
	// It closes a connection with a transaction that has not ended.
	defer conn.Release()
	where, args := conditions(filter)
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT FROM audit_events WHERE %s LIMIT %d) AS found", where, datastorage.MaxTotal)
	if filter.All() {
		count = "SELECT size FROM audit_log_head"
	}
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	batch.Queue(count, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&page.Total) })
	if filter.After != nil {
		where += fmt.Sprintf(" AND (event_timestamp, log_index) < ($%d, $%d)", len(args)+1, len(args)+2)
		args = append(slices.Clip(args), time.UnixMicro(filter.After.Micros), filter.After.LogIndex)
	}
	statement := fmt.Sprintf("%s FROM audit_events AS e WHERE %s ORDER BY event_timestamp DESC, log_index DESC LIMIT $%d OFFSET $%d",
		selectEvents, where, len(args)+1, len(args)+2)
	batch.Queue(statement, append(slices.Clip(args), filter.Limit+1, filter.Offset)...).Query(func(rows pgx.Rows) (err error) {
		page.Events, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (datastorage.Stored, error) { return scanEvent(row) })
		return err
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	n, err := addBodies(ctx, conn, page.Events[:min(len(page.Events), filter.Limit)])
	if n > 0 && n < len(page.Events) {
		last := &page.Events[n-1]
		page.Next = &datastorage.Cursor{Micros: last.Columns.EventTimestamp.UnixMicro(), LogIndex: last.LogIndex}
	}
	page.Events = page.Events[:n]
	return page, err
}

// selectEvents has the columns that scanEvent reads, e being audit_events.
const selectEvents = `SELECT e.log_index, e.event_id, e.event_timestamp, e.event_type, e.event_category, e.event_outcome, e.correlation_id,
	coalesce(e.severity, ''), coalesce(e.resource_id, ''), coalesce(e.namespace, ''), e.recorded_at, e.leaf_hash`

// scanEvent reads an event without its body, and what other columns there are.
func scanEvent(row pgx.CollectableRow, others ...any) (s datastorage.Stored, err error) {
	var id [16]byte
	var hash []byte
	e := &s.Columns
	err = row.Scan(append([]any{
		&s.LogIndex, &id, &e.EventTimestamp, &e.EventType, &e.EventCategory, &e.EventOutcome, &e.CorrelationID,
		&e.Severity, &e.ResourceID, &e.Namespace, &s.RecordedAt, &hash,
	}, others...)...)
	e.EventID, e.EventTimestamp, s.RecordedAt = id, e.EventTimestamp.UTC(), s.RecordedAt.UTC()
	copy(s.LeafHash[:], hash)
	return s, err
}

func conditions(filter datastorage.Filter) (string, []any) {
	where, args := []string{"true"}, []any{}
	add := func(condition string, value any) {
		args = append(args, value)
		where = append(where, fmt.Sprintf("%s $%d", condition, len(args)))
	}
	for _, column := range datastorage.FilterColumns {
		if value, ok := filter.Equal[column]; ok {
			add(column+" =", value)
		}
	}
	if filter.IDs != nil {
		args = append(args, toUUIDs(filter.IDs))
		where = append(where, fmt.Sprintf("event_id = ANY($%d::uuid[])", len(args)))
	}
	if !filter.Since.IsZero() {
		add("event_timestamp >=", filter.Since)
	}
	if !filter.Until.IsZero() {
		add("event_timestamp <=", filter.Until)
	}
	return strings.Join(where, " AND "), args
}
