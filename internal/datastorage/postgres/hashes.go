package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage"
)

const selectHead = "SELECT size, checkpoint, verifier FROM audit_log_head"

// Head is as datastorage.Reader says.
func (s *store) Head(ctx context.Context) (datastorage.Head, error) {
	return scanHead(s.pool.QueryRow(ctx, selectHead))
}

// Hashes is as datastorage.Hashes says.
func (s *store) Hashes(ctx context.Context, level int, from, to int64) ([]datastorage.HashRow, error) {
	return reader{s.pool}.Hashes(ctx, level, from, to)
}

func scanHead(row pgx.Row) (h datastorage.Head, err error) {
	err = row.Scan(&h.Size, &h.Checkpoint, &h.Verifier)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, fmt.Errorf("%w: its head is missing", datastorage.ErrTampered)
	}
	if err != nil {
		return h, fmt.Errorf("read log head: %w", err)
	}
	return h, nil
}

// querier is a transaction, or the pool.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

// reader reads in a transaction or beside it.
type reader struct{ querier }

// Hashes is as datastorage.Hashes says.
func (r reader) Hashes(ctx context.Context, level int, from, to int64) ([]datastorage.HashRow, error) {
	query, args := "SELECT log_index, leaf_hash FROM audit_events WHERE log_index >= $1 AND log_index < $2 ORDER BY log_index", []any{from, to}
	if level != datastorage.Leaves {
		query, args = "SELECT tile_index, hashes FROM audit_tiles WHERE tile_index >= $1 AND tile_index < $2 AND level = $3 ORDER BY tile_index", append(args, level)
	}
	rows, err := r.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[datastorage.HashRow])
}
