// Package postgres keeps the log of audit events in PostgreSQL.
package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"kubernaut.ai/notification/internal/datastorage"
)

//go:embed migrations/*.sql
var migrations embed.FS

type store struct {
	pool   *pgxpool.Pool
	schema int64
}

// Open connects to the database of a postgres:// URL. What the URL leaves out
// comes from PostgreSQL's environment variables, such as PGPASSWORD.
func Open(ctx context.Context, databaseURL string) (datastorage.Store, func() error, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		// The driver's error quotes the URL without its password.
		return nil, nil, fmt.Errorf("%w: %w", datastorage.ErrConfig, err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "datastorage"
	config.AfterConnect = prepare
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	s := &store{pool: pool}
	if err := s.migrate(ctx); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return s, func() error { pool.Close(); return nil }, nil
}

// prepare refuses a server that would acknowledge events before they are
// durable or that cannot hold all of Unicode.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	var commit, encoding string
	err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_commit'), current_setting('server_encoding')").Scan(&commit, &encoding)
	switch {
	case err != nil:
		return fmt.Errorf("read server settings: %w", err)
	case commit == "off":
		return fmt.Errorf("%w: synchronous_commit is off, so a crash would lose acknowledged events; set it to on", datastorage.ErrConfig)
	case encoding != "UTF8":
		return fmt.Errorf("%w: its encoding is %s; events need a database with encoding UTF8", datastorage.ErrConfig, encoding)
	}
	// A plan that was cached while the table was small would go on scanning it
	// when it has grown.
	if _, err := conn.Exec(ctx, "SET plan_cache_mode = force_custom_plan"); err != nil {
		return fmt.Errorf("set plan cache mode: %w", err)
	}
	return nil
}

// migrate brings the schema up to date while it holds an advisory lock.
func (s *store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("make migration lock: %w", err)
	}
	db := stdlib.OpenDBFromPool(s.pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema: %w", err)
	}
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	s.schema = known
	return datastorage.CheckSchema(current, known)
}

// Append is as datastorage.Store says. All appends, those of other replicas
// included, queue for the lock on the head row, which is what makes the log
// indices contiguous.
func (s *store) Append(ctx context.Context, records []datastorage.Record) ([]datastorage.Appended, error) {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin append: %w", err)
	}
	// The rollback must reach the server also when ctx has ended.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	head, stored, err := find(ctx, tx, records)
	if err != nil {
		return nil, fmt.Errorf("find stored events: %w", err)
	}
	appended, fresh, err := datastorage.Place(records, stored, head)
	if err != nil || len(fresh) == 0 {
		return appended, err
	}
	if err := insert(ctx, tx, records, fresh, head); err != nil {
		return nil, fmt.Errorf("insert events: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, fmt.Errorf("commit append: %w", err)
	}
	return appended, nil
}

// find locks the head of the log and returns its size and those of the records
// that are stored. The lateral join makes the planner look up each ID in the
// index, whatever it believes about the size of the table.
func find(ctx context.Context, tx pgx.Tx, records []datastorage.Record) (int64, map[uuid.UUID]datastorage.Placed, error) {
	ids := make([][16]byte, len(records))
	for i, r := range records {
		ids[i] = r.Event.EventID
	}
	var batch pgx.Batch
	batch.Queue("SELECT size FROM audit_log_head FOR UPDATE")
	batch.Queue(`SELECT e.event_id, e.log_index, e.leaf_hash FROM unnest($1::uuid[]) AS sent (id)
		JOIN LATERAL (SELECT event_id, log_index, leaf_hash FROM audit_events WHERE event_id = sent.id LIMIT 1) AS e ON true`, ids)
	results := tx.SendBatch(ctx, &batch)
	defer results.Close()
	var head int64
	if err := results.QueryRow().Scan(&head); err != nil {
		return 0, nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return 0, nil, err
	}
	stored := map[uuid.UUID]datastorage.Placed{}
	var id [16]byte
	var p datastorage.Placed
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &p.LogIndex, &hash}, func() error {
		copy(p.LeafHash[:], hash)
		stored[id] = p
		return nil
	})
	return head, stored, err
}

func insert(ctx context.Context, tx pgx.Tx, records []datastorage.Record, fresh []int, head int64) error {
	n := len(fresh)
	indices, ids, times := make([]int64, n), make([][16]byte, n), make([]time.Time, n)
	texts := make([][]string, 7)
	for column := range texts {
		texts[column] = make([]string, n)
	}
	hashes, bodies := make([][]byte, n), make([]string, n)
	for row, i := range fresh {
		e := &records[i].Event
		indices[row], ids[row], times[row] = head+int64(row), e.EventID, e.EventTimestamp
		for column, text := range []string{e.EventType, e.EventCategory, e.EventOutcome, e.CorrelationID, e.Severity, e.ResourceID, e.Namespace} {
			texts[column][row] = text
		}
		hashes[row], bodies[row] = records[i].LeafHash[:], string(records[i].Body)
	}
	var batch pgx.Batch
	batch.Queue(`INSERT INTO audit_events (log_index, event_id, event_timestamp, event_type, event_category,
			event_outcome, correlation_id, severity, resource_id, namespace, recorded_at, leaf_hash, event)
		SELECT log_index, event_id, event_timestamp, event_type, event_category, event_outcome, correlation_id,
			NULLIF(severity, ''), NULLIF(resource_id, ''), NULLIF(namespace, ''), $13, leaf_hash, event::json
		FROM unnest($1::bigint[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
			$8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[])
			AS sent (log_index, event_id, event_timestamp, event_type, event_category, event_outcome, correlation_id,
				severity, resource_id, namespace, leaf_hash, event)`,
		indices, ids, times, texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], texts[6], hashes, bodies, time.Now())
	batch.Queue("UPDATE audit_log_head SET size = $1", head+int64(n))
	return tx.SendBatch(ctx, &batch).Close()
}

// CheckWrite is as datastorage.Store says.
func (s *store) CheckWrite(ctx context.Context) error {
	var current int64
	err := s.pool.QueryRow(ctx, `WITH probe AS (UPDATE write_probe SET probed_at = now())
		SELECT max(version_id) FROM goose_db_version`).Scan(&current)
	if err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	return datastorage.CheckSchema(current, s.schema)
}
