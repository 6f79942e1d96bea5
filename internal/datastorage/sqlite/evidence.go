package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pressly/goose/v3"

	"kubernaut.ai/notification/internal/datastorage"
)

// OpenReader opens the database file that a URL sqlite:PATH names, to be read
// only. The file must be there, with the schema that this program knows.
func OpenReader(ctx context.Context, databaseURL string) (datastorage.Reader, func() error, error) {
	path, _ := strings.CutPrefix(databaseURL, "sqlite:")
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return nil, nil, fmt.Errorf("%w: %q names no file that is there; write sqlite:PATH", datastorage.ErrConfig, databaseURL)
	}
	db, err := connect(path, readers, "query_only(1)")
	if err != nil {
		return nil, nil, err
	}
	provider, err := schemaOf(db)
	if err == nil {
		_, err = checkSchema(ctx, provider)
	}
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return &store{reader: db}, db.Close, nil
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
	rows, err := s.reader.QueryContext(ctx, `SELECT log_index, event_id, event_timestamp, event_type, event_category, event_outcome,
		correlation_id, severity, resource_id, namespace, e.recorded_at, leaf_hash, event, expires_at
		FROM audit_events AS e LEFT JOIN audit_bodies AS b USING (log_index, recorded_at) WHERE log_index >= ? AND log_index < ? ORDER BY log_index LIMIT ?`, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	defer rows.Close()
	var list []datastorage.Row
	for size := 0; size < datastorage.MaxPageBytes && rows.Next(); {
		list = append(list, datastorage.Row{})
		row := &list[len(list)-1]
		into := []any{&row.LogIndex}
		for i := range row.Columns {
			into = append(into, &row.Columns[i])
		}
		if err := rows.Scan(append(into, &row.LeafHash, &row.Body, &row.ExpiresAt)...); err != nil {
			return nil, fmt.Errorf("read row: %w", err)
		}
		size += len(row.Body)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return list, nil
}

// Kept is as datastorage.Evidence says.
func (s *store) Kept(ctx context.Context, after int64, limit int) ([]datastorage.Kept, error) {
	rows, err := s.reader.QueryContext(ctx, "SELECT id, size, checkpoint FROM audit_checkpoints WHERE id > ? ORDER BY id LIMIT ?", after, limit)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	defer rows.Close()
	var list []datastorage.Kept
	for rows.Next() {
		var kept datastorage.Kept
		if err := rows.Scan(&kept.ID, &kept.Size, &kept.Checkpoint); err != nil {
			return nil, fmt.Errorf("read checkpoint: %w", err)
		}
		list = append(list, kept)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	return list, nil
}
