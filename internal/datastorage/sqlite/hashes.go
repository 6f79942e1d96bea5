package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"kubernaut.ai/notification/internal/datastorage"
)

// querier is a transaction, or the connections that read.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Head is as datastorage.Reader says.
func (s *store) Head(ctx context.Context) (datastorage.Head, error) { return head(ctx, s.reader) }

// Hashes is as datastorage.Hashes says.
func (s *store) Hashes(ctx context.Context, level int, from, to int64) ([]datastorage.HashRow, error) {
	return reader{s.reader}.Hashes(ctx, level, from, to)
}

func head(ctx context.Context, q querier) (h datastorage.Head, err error) {
	err = q.QueryRowContext(ctx, "SELECT size, checkpoint, verifier FROM audit_log_head").Scan(&h.Size, &h.Checkpoint, &h.Verifier)
	if errors.Is(err, sql.ErrNoRows) {
		return h, fmt.Errorf("%w: its head is missing", datastorage.ErrTampered)
	}
	if err != nil {
		return h, fmt.Errorf("read log head: %w", err)
	}
	return h, nil
}

// reader reads in a transaction or beside it.
type reader struct{ querier }

// Hashes is as datastorage.Hashes says.
func (r reader) Hashes(ctx context.Context, level int, from, to int64) ([]datastorage.HashRow, error) {
	query, args := "SELECT log_index, leaf_hash FROM audit_events WHERE log_index >= ? AND log_index < ? ORDER BY log_index", []any{from, to}
	if level != datastorage.Leaves {
		query, args = "SELECT tile_index, hashes FROM audit_tiles WHERE tile_index >= ? AND tile_index < ? AND level = ? ORDER BY tile_index", append(args, level)
	}
	rows, err := r.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []datastorage.HashRow
	for rows.Next() {
		var row datastorage.HashRow
		if err := rows.Scan(&row.Index, &row.Data); err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, rows.Err()
}
