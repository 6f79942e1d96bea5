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
	near, rest, args := conditions(filter)
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT FROM (SELECT * FROM audit_events WHERE %s %s LIMIT %d) AS e WHERE %s LIMIT %d) AS found",
		near, newestFirst, datastorage.MaxCounted, rest, datastorage.MaxTotal)
	if filter.All() {
		count = "SELECT size FROM audit_log_head"
	}
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	batch.Queue(count, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&page.Total) })
	where := near + " AND " + rest
	if filter.After != nil {
		where += fmt.Sprintf(" AND (event_timestamp, log_index) < ($%d, $%d)", len(args)+1, len(args)+2)
		args = append(slices.Clip(args), time.UnixMicro(filter.After.Micros), filter.After.LogIndex)
	}
	statement := fmt.Sprintf("%s FROM audit_events AS e WHERE %s %s LIMIT $%d OFFSET $%d", selectEvents, where, newestFirst, len(args)+1, len(args)+2)
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

const newestFirst = "ORDER BY event_timestamp DESC, log_index DESC"

// conditions returns what leads to events by an index, and what else they must meet,
// written so that the planner does not take another index for it.
func conditions(filter datastorage.Filter) (near, rest string, args []any) {
	where, others := []string{"true"}, []string{"true"}
	param := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	along := filter.Along()
	for _, column := range datastorage.FilterColumns {
		value, ok := filter.Equal[column]
		switch {
		case !ok:
		case !slices.Contains(along, column):
			others = append(others, column+" || '' = "+param(value))
		default:
			where = append(where, column+" = "+param(value))
			if usual := datastorage.Usual[column]; usual != "" {
				where = append(where, column+" <> '"+usual+"'")
			}
		}
	}
	if filter.IDs != nil {
		where = append(where, "event_id = ANY("+param(toUUIDs(filter.IDs))+"::uuid[])")
	}
	if !filter.Since.IsZero() {
		where = append(where, "event_timestamp >= "+param(filter.Since))
	}
	if !filter.Until.IsZero() {
		where = append(where, "event_timestamp <= "+param(filter.Until))
	}
	return strings.Join(where, " AND "), strings.Join(others, " AND "), args
}
