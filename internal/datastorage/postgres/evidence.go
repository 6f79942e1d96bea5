package postgres

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"kubernaut.ai/notification/internal/datastorage"
)

// OpenReader connects to the database of a postgres:// URL, to read only. It must
// have the schema that this program knows.
func OpenReader(ctx context.Context, databaseURL string) (datastorage.Reader, func() error, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", datastorage.ErrConfig, err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "datastorage verify"
	config.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := schemaOf(db)
	if err == nil {
		_, err = checkSchema(ctx, provider)
	}
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return &store{pool: pool}, func() error { pool.Close(); return nil }, nil
}

// checkSchema returns the version of the schema that this program knows. It fails
// where the database has another.
func checkSchema(ctx context.Context, provider *goose.Provider) (known int64, err error) {
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return known, datastorage.CheckSchema(current, known)
}

// Rows is as datastorage.Evidence says.
func (s *store) Rows(ctx context.Context, from, to int64, limit int) ([]datastorage.Row, error) {
	rows, err := s.pool.Query(ctx, `SELECT log_index, event_id, event_timestamp, recorded_at, event_type, event_category, event_outcome,
		correlation_id, severity, resource_id, namespace, leaf_hash, b.event, b.expires_at FROM audit_events AS e
		LEFT JOIN LATERAL (SELECT event, expires_at FROM audit_bodies WHERE log_index = e.log_index AND recorded_at = e.recorded_at LIMIT 1) AS b ON true
		WHERE log_index >= $1 AND log_index < $2 ORDER BY log_index LIMIT $3`, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	defer rows.Close()
	var list []datastorage.Row
	for size := 0; size < datastorage.MaxPageBytes && rows.Next(); {
		var row datastorage.Row
		var id [16]byte
		var happened, recorded, expires pgtype.Timestamptz
		var texts [7]pgtype.Text
		into := []any{&row.LogIndex, &id, &happened, &recorded}
		for i := range texts {
			into = append(into, &texts[i])
		}
		if err := rows.Scan(append(into, &row.LeafHash, &row.Body, &expires)...); err != nil {
			return nil, fmt.Errorf("read row: %w", err)
		}
		switch {
		case expires.Valid && expires.InfinityModifier == pgtype.Infinity:
			row.ExpiresAt = datastorage.NeverExpires
		case expires.Valid:
			row.ExpiresAt = micros(expires)
		}
		row.Columns[0], row.Columns[1], row.Columns[9] = uuid.UUID(id).String(), micros(happened), micros(recorded)
		for i, text := range texts {
			if text.Valid {
				row.Columns[2+i] = text.String
			}
		}
		list, size = append(list, row), size+len(row.Body)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return list, nil
}

// micros is a column with a time, which PostgreSQL lets be infinite.
func micros(t pgtype.Timestamptz) any {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return t.InfinityModifier
	}
	return t.Time.UnixMicro()
}

// Kept is as datastorage.Evidence says.
func (s *store) Kept(ctx context.Context, after int64, limit int) ([]datastorage.Kept, error) {
	rows, err := s.pool.Query(ctx, "SELECT id, size, checkpoint FROM audit_checkpoints WHERE id > $1 ORDER BY id LIMIT $2", after, limit)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[datastorage.Kept])
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	return list, nil
}
