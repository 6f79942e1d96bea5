package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage"
)

// Query is as datastorage.Store says. Total and page are of one snapshot.
func (s *store) Query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	var page datastorage.Page
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return page, fmt.Errorf("begin query: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	where, args := conditions(filter)
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT FROM audit_events WHERE %s LIMIT %d) AS found", where, datastorage.MaxTotal)
	if filter.All() {
		count = "SELECT size FROM audit_log_head"
	}
	if err := tx.QueryRow(ctx, count, args...).Scan(&page.Total); err != nil {
		return page, fmt.Errorf("count events: %w", err)
	}
	if filter.After != nil {
		where += fmt.Sprintf(" AND (event_timestamp, log_index) < ($%d, $%d)", len(args)+1, len(args)+2)
		args = append(args, time.UnixMicro(filter.After.Micros), filter.After.LogIndex)
	}
	statement := fmt.Sprintf(`SELECT log_index, event_timestamp, recorded_at, leaf_hash, event::text FROM audit_events
		WHERE %s ORDER BY event_timestamp DESC, log_index DESC LIMIT $%d OFFSET $%d`, where, len(args)+1, len(args)+2)
	rows, err := tx.Query(ctx, statement, append(args, filter.Limit+1, filter.Offset)...)
	if err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	var last datastorage.Cursor
	var index int64
	var happened, recorded time.Time
	var hash []byte
	var body string
	_, err = pgx.ForEachRow(rows, []any{&index, &happened, &recorded, &hash, &body}, func() error {
		if len(page.Events) == filter.Limit {
			page.Next = &last
			return nil
		}
		last = datastorage.Cursor{Micros: happened.UnixMicro(), LogIndex: index}
		e := datastorage.Stored{RecordedAt: recorded.UTC(), Body: []byte(body)}
		e.LogIndex = index
		copy(e.LeafHash[:], hash)
		page.Events = append(page.Events, e)
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("read events: %w", err)
	}
	return page, nil
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
	if !filter.Since.IsZero() {
		add("event_timestamp >=", filter.Since)
	}
	if !filter.Until.IsZero() {
		add("event_timestamp <=", filter.Until)
	}
	return strings.Join(where, " AND "), args
}
