package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"kubernaut.ai/notification/internal/datastorage"
)

// Expirable is as datastorage.Tx says.
func (r reader) Expirable(ctx context.Context, sweep *datastorage.Sweep, limit int) ([]datastorage.Stored, error) {
	const (
		old  = "SELECT log_index, expires_at, old.recorded_at, octet_length(event) AS bytes FROM audit_bodies AS old CROSS JOIN audit_events AS e USING (log_index)"
		free = "NOT EXISTS (SELECT 1 FROM audit_holds WHERE correlation_id = e.correlation_id)"
	)
	rows, err := r.QueryContext(ctx, selectEvents+` JOIN audit_bodies USING (log_index) WHERE log_index IN (
		SELECT log_index FROM (SELECT log_index, sum(bytes) OVER (ORDER BY expires_at IS NULL, expires_at, recorded_at, log_index) - bytes AS before FROM (
		SELECT log_index, expires_at, recorded_at, bytes FROM (`+old+` WHERE expires_at >= ?5 AND expires_at <= ?1 AND `+free+` ORDER BY expires_at LIMIT ?2)
		UNION ALL
		SELECT log_index, expires_at, recorded_at, bytes FROM (`+old+` WHERE expires_at IS NULL AND old.recorded_at >= ?6 AND old.recorded_at <= ?3 AND event_timestamp <= ?3 AND `+free+` ORDER BY old.recorded_at LIMIT ?2)
		)) WHERE before < ?4 ORDER BY before LIMIT ?2) ORDER BY log_index`,
		sweep.Now.UnixMicro(), limit, policyMicros(sweep.Policy), datastorage.MaxPageBytes, sweep.Until.UnixMicro(), sweep.Recorded.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("find what expires: %w", err)
	}
	defer rows.Close()
	var list []datastorage.Stored
	for rows.Next() {
		e, err := scanEvent(rows)
		if err != nil {
			return nil, fmt.Errorf("read what expires: %w", err)
		}
		body := e.Body
		e.Body = nil
		if err := sweep.Found(&e, body); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

// policyMicros is a time before all others where there is no policy.
func policyMicros(policy time.Time) any {
	if policy.IsZero() {
		return nil
	}
	return policy.UnixMicro()
}

const selectHolds = "SELECT correlation_id, reason, placed_by, placed_at FROM audit_holds"

// Hold is as datastorage.Tx says.
func (r reader) Hold(ctx context.Context, correlationID string) (datastorage.Hold, bool, error) {
	hold, err := scanHold(r.QueryRowContext(ctx, selectHolds+" WHERE correlation_id = ?", correlationID))
	if errors.Is(err, sql.ErrNoRows) {
		return hold, false, nil
	}
	return hold, err == nil, err
}

// Holds is as datastorage.Queries says.
func (s *store) Holds(ctx context.Context) ([]datastorage.Hold, error) {
	rows, err := s.reader.QueryContext(ctx, selectHolds+" ORDER BY correlation_id")
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	defer rows.Close()
	var list []datastorage.Hold
	for rows.Next() {
		hold, err := scanHold(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, hold)
	}
	return list, rows.Err()
}

func scanHold(row interface{ Scan(into ...any) error }) (h datastorage.Hold, err error) {
	var placed int64
	if err = row.Scan(&h.CorrelationID, &h.Reason, &h.PlacedBy, &placed); err != nil {
		return h, fmt.Errorf("read hold: %w", err)
	}
	h.PlacedAt = time.UnixMicro(placed).UTC()
	return h, nil
}

// retain removes the bodies of what has expired, and changes the holds.
func retain(ctx context.Context, tx *sql.Tx, add datastorage.Addition) error {
	for i := range add.Expired {
		result, err := tx.ExecContext(ctx, "DELETE FROM audit_bodies WHERE log_index = ?", add.Expired[i].LogIndex)
		if err != nil {
			return fmt.Errorf("remove body: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("remove body of event %d: %d removed: %w", add.Expired[i].LogIndex, n, err)
		}
	}
	if h := add.Placed; h != nil {
		if _, err := tx.ExecContext(ctx, "INSERT INTO audit_holds (correlation_id, reason, placed_by, placed_at) VALUES (?, ?, ?, ?)",
			h.CorrelationID, h.Reason, h.PlacedBy, h.PlacedAt.UnixMicro()); err != nil {
			return fmt.Errorf("place hold: %w", err)
		}
	}
	if add.Released != "" {
		if _, err := tx.ExecContext(ctx, "DELETE FROM audit_holds WHERE correlation_id = ?", add.Released); err != nil {
			return fmt.Errorf("release hold: %w", err)
		}
	}
	return nil
}

// Reclaim does nothing: SQLite fills again what has become free.
func (s *store) Reclaim(context.Context, time.Time) error { return nil }
