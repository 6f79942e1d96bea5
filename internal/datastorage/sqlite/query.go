package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"kubernaut.ai/notification/internal/datastorage"
)

// Query is as datastorage.Store says.
func (s *store) Query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	tx, err := s.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return datastorage.Page{}, fmt.Errorf("begin query: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return reader{tx}.query(ctx, filter)
}

func (r reader) query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	var page datastorage.Page
	near, rest, args := conditions(filter)
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM (SELECT * FROM audit_events WHERE %s %s LIMIT %d) WHERE %s LIMIT %d)",
		near, newestFirst, datastorage.MaxCounted, rest, datastorage.MaxTotal)
	if filter.All() {
		count = "SELECT size FROM audit_log_head"
	}
	if err := r.QueryRowContext(ctx, count, args...).Scan(&page.Total); err != nil {
		return page, fmt.Errorf("count events: %w", err)
	}
	where := near + " AND " + rest
	if filter.After != nil {
		where += " AND (event_timestamp, log_index) < (?, ?)"
		args = append(args, filter.After.Micros, filter.After.LogIndex)
	}
	statement := fmt.Sprintf("%s LEFT JOIN audit_bodies AS b USING (log_index) WHERE %s %s LIMIT ? OFFSET ?", selectEvents, where, newestFirst)
	rows, err := r.QueryContext(ctx, statement, append(args, filter.Limit+1, filter.Offset)...)
	if err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var last datastorage.Cursor
	size := 0
	for rows.Next() {
		if len(page.Events) == filter.Limit || size >= datastorage.MaxPageBytes {
			page.Next = &last
			break
		}
		e, err := scanEvent(rows)
		if err != nil {
			return page, fmt.Errorf("read event: %w", err)
		}
		last = datastorage.Cursor{Micros: e.Columns.EventTimestamp.UnixMicro(), LogIndex: e.LogIndex}
		page.Events, size = append(page.Events, e), size+len(e.Body)
	}
	if err := rows.Err(); err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	return page, nil
}

// selectEvents has the columns that scanEvent reads, b being audit_bodies.
const selectEvents = `SELECT log_index, event_id, event_timestamp, event_type, event_category, event_outcome, correlation_id,
	coalesce(severity, ''), coalesce(resource_id, ''), coalesce(namespace, ''), e.recorded_at, leaf_hash, event
	FROM audit_events AS e`

func scanEvent(rows *sql.Rows) (s datastorage.Stored, err error) {
	var happened, recorded int64
	var hash []byte
	e := &s.Columns
	err = rows.Scan(&s.LogIndex, &e.EventID, &happened, &e.EventType, &e.EventCategory, &e.EventOutcome, &e.CorrelationID,
		&e.Severity, &e.ResourceID, &e.Namespace, &recorded, &hash, &s.Body)
	e.EventTimestamp, s.RecordedAt = time.UnixMicro(happened).UTC(), time.UnixMicro(recorded).UTC()
	copy(s.LeafHash[:], hash)
	return s, err
}

const newestFirst = "ORDER BY event_timestamp DESC, log_index DESC"

// conditions returns what leads to events by an index, and what else they must meet,
// written so that SQLite does not take another index for it. The arguments are in
// that order.
func conditions(filter datastorage.Filter) (near, rest string, args []any) {
	where, others, otherArgs := []string{"TRUE"}, []string{"TRUE"}, []any{}
	along := filter.Along()
	for _, column := range datastorage.FilterColumns {
		value, ok := filter.Equal[column]
		if !ok {
			continue
		}
		switch slices.Index(along, column) {
		case 0:
			where, args = append(where, column+" = ?"), append(args, value)
			if usual := datastorage.Usual[column]; usual != "" {
				where = append(where, column+" <> '"+usual+"'")
			}
		case 1:
			where, args = append(where, column+" || '' = ?"), append(args, value)
		default:
			others, otherArgs = append(others, column+" || '' = ?"), append(otherArgs, value)
		}
	}
	if filter.IDs != nil {
		where, args = append(where, "event_id IN (SELECT value FROM json_each(?))"), append(args, toJSON(filter.IDs))
	}
	if !filter.Since.IsZero() {
		where, args = append(where, "event_timestamp >= ?"), append(args, filter.Since.UnixMicro())
	}
	if !filter.Until.IsZero() {
		where, args = append(where, "event_timestamp <= ?"), append(args, filter.Until.UnixMicro())
	}
	return strings.Join(where, " AND "), strings.Join(others, " AND "), append(args, otherArgs...)
}
