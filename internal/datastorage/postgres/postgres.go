// Package postgres keeps the log of audit events in PostgreSQL.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"kubernaut.ai/notification/internal/datastorage"
)

//go:embed migrations/*.sql
var migrations embed.FS

// writers is how many connections nobody reads with: the log commits with one of
// them, whatever else is under way, and the other probes or drops partitions.
const writers = 2

type store struct {
	pool, writer *pgxpool.Pool
	schema       int64
	// month is the partition that is known to be there.
	month atomic.Pointer[string]
}

// Open connects to the database of a postgres:// URL. What the URL leaves out
// comes from PostgreSQL's environment variables, such as PGPASSWORD.
func Open(ctx context.Context, databaseURL string, unsafe bool) (datastorage.Store, func() error, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		// The driver's error quotes the URL without its password.
		return nil, nil, fmt.Errorf("%w: %w", datastorage.ErrConfig, err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "datastorage"
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return prepare(ctx, conn, unsafe) }
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	config = config.Copy()
	config.MinConns, config.MinIdleConns, config.MaxConns = 0, 0, writers
	writer, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	s := &store{pool: pool, writer: writer}
	closeBoth := func() error { pool.Close(); writer.Close(); return nil }
	if err := s.migrate(ctx); err != nil {
		return nil, nil, errors.Join(err, closeBoth())
	}
	return s, closeBoth, nil
}

// settings are those of each session. A plan that was cached while the table was
// small would go on scanning it when it has grown. Whatever is asked for is in the
// order of an index and soon found, though the planner may believe otherwise, and not
// worth compiling. A process that is stopped while it holds the head of the log, or
// whose machine is gone, would keep all other replicas from it, the latter for as long
// as the kernel believes in the connection: two hours on Linux, unless it is told
// otherwise. While an answer is on its way to it, the first is not idle and the second
// not probed, so that has a limit of its own. No setting is for one that is stopped in
// the middle of a COPY: the others then answer 503, and go on when it goes on or is gone.
const settings = `SET plan_cache_mode = force_custom_plan;
	SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off;
	SET idle_in_transaction_session_timeout = '5s';
	SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
	SET tcp_user_timeout = '11s'`

// prepare refuses a server that would acknowledge events before they are
// durable, unless that is what is wanted, or that cannot hold all of Unicode.
func prepare(ctx context.Context, conn *pgx.Conn, unsafe bool) error {
	var commit, sync, encoding string
	err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_encoding')").
		Scan(&commit, &sync, &encoding)
	switch {
	case err != nil:
		return fmt.Errorf("read server settings: %w", err)
	case commit == "off" && !unsafe:
		return fmt.Errorf("%w: synchronous_commit is off, so a crash would lose acknowledged events; set it to on, or start with --unsafe-no-sync", datastorage.ErrConfig)
	case sync == "off" && !unsafe:
		return fmt.Errorf("%w: fsync is off, so a crash would lose acknowledged events or the whole database; set it to on, or start with --unsafe-no-sync", datastorage.ErrConfig)
	case encoding != "UTF8":
		return fmt.Errorf("%w: its encoding is %s; events need a database with encoding UTF8", datastorage.ErrConfig, encoding)
	}
	if _, err := conn.Exec(ctx, settings); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	return nil
}

// migrate brings the schema up to date while it holds an advisory lock.
func (s *store) migrate(ctx context.Context) error {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("make migration lock: %w", err)
	}
	db := stdlib.OpenDBFromPool(s.pool)
	defer db.Close()
	provider, err := schemaOf(db, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema: %w", err)
	}
	s.schema, err = checkSchema(ctx, provider)
	return err
}

// schemaOf knows the schema of a database and all migrations.
func schemaOf(db *sql.DB, options ...goose.ProviderOption) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, options...)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return provider, nil
}

// Append is as datastorage.Writer says. All appends, those of other replicas
// included, queue for the lock on the head row, which is what makes the log
// indices contiguous.
func (s *store) Append(ctx context.Context, ids []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	conn, err := s.writer.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin append: %w", err)
	}
	// It closes a connection with a transaction that has not ended, which undoes that.
	defer conn.Release()
	known, err := begin(ctx, conn.Conn(), ids)
	if err != nil {
		return fmt.Errorf("find stored events: %w", err)
	}
	add, err := plan(known)
	if err != nil || add.Head.Verifier == "" && len(add.Conflicts) == 0 {
		if _, rollbackErr := conn.Exec(ctx, "ROLLBACK"); rollbackErr != nil {
			return errors.Join(err, fmt.Errorf("end append: %w", rollbackErr))
		}
		return err
	}
	month := s.month.Swap(nil)
	if month, err = insert(ctx, conn.Conn(), add, known.Head.Size, month); err != nil {
		return fmt.Errorf("insert events: %w", err)
	}
	if err := retain(ctx, conn, add); err != nil {
		return err
	}
	if err := commit(ctx, conn, add); err != nil {
		return fmt.Errorf("commit append: %w", err)
	}
	s.month.Store(month)
	return nil
}

// commit moves the head and commits, in one round trip.
func commit(ctx context.Context, conn *pgxpool.Conn, add datastorage.Addition) error {
	var batch pgx.Batch
	for i := range add.Conflicts {
		r := &add.Conflicts[i]
		batch.Queue("INSERT INTO audit_conflicts (event_id, leaf_hash, received_at, event) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			[16]byte(r.Event.EventID), r.LeafHash[:], add.RecordedAt, r.Body)
	}
	for i := range add.Tiles {
		t := &add.Tiles[i]
		batch.Queue("INSERT INTO audit_tiles (level, tile_index, hashes) VALUES ($1, $2, $3)", t.Level, t.Index, t.Bytes())
	}
	h := &add.Head
	if h.Verifier != "" {
		batch.Queue("UPDATE audit_log_head SET size = $1, checkpoint = $2, verifier = $3", h.Size, h.Checkpoint, h.Verifier)
	}
	if add.Milestone {
		batch.Queue("INSERT INTO audit_checkpoints (size, checkpoint) VALUES ($1, $2)", h.Size, h.Checkpoint)
	}
	batch.Queue("COMMIT")
	return conn.SendBatch(ctx, &batch).Close()
}

// begin begins a transaction, locks the head of the log and returns it with those
// of the events that are stored, in one round trip. The lateral join makes the
// planner look up each ID in the index, whatever it believes about the size of the
// table.
func begin(ctx context.Context, conn *pgx.Conn, ids []uuid.UUID) (datastorage.Known, error) {
	known := datastorage.Known{Stored: map[uuid.UUID]datastorage.Placed{}, Tx: reader{conn}}
	var batch pgx.Batch
	batch.Queue("BEGIN")
	batch.Queue(selectHead + " FOR UPDATE")
	batch.Queue(`SELECT e.event_id, e.log_index, e.leaf_hash FROM unnest($1::uuid[]) AS sent (id)
		JOIN LATERAL (SELECT event_id, log_index, leaf_hash FROM audit_events WHERE event_id = sent.id LIMIT 1) AS e ON true`, toUUIDs(ids))
	results := conn.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return known, err
	}
	var err error
	if known.Head, err = scanHead(results.QueryRow()); err != nil {
		return known, err
	}
	rows, err := results.Query()
	if err != nil {
		return known, err
	}
	var id [16]byte
	var p datastorage.Placed
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &p.LogIndex, &hash}, func() error {
		copy(p.LeafHash[:], hash)
		known.Stored[id] = p
		return nil
	})
	return known, err
}

// toUUIDs are IDs of the type that the driver sends as they are.
func toUUIDs(ids []uuid.UUID) [][16]byte {
	sent := make([][16]byte, len(ids))
	for i, id := range ids {
		sent[i] = id
	}
	return sent
}

var (
	eventColumns = []string{
		"log_index", "event_id", "event_timestamp", "event_type", "event_category", "event_outcome", "correlation_id",
		"severity", "resource_id", "namespace", "recorded_at", "leaf_hash",
	}
	bodyColumns = []string{"recorded_at", "log_index", "expires_at", "event"}
)

// insert adds the records of a log of head events. It returns the partition of
// their month, which it makes unless that is known to be there.
func insert(ctx context.Context, conn *pgx.Conn, add datastorage.Addition, head int64, known *string) (*string, error) {
	if len(add.Records) == 0 {
		return known, nil
	}
	month := add.RecordedAt.UTC().Format(partition)
	if known == nil || *known != month {
		if err := makePartition(ctx, conn, month, add.RecordedAt); err != nil {
			return nil, err
		}
	}
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"audit_events"}, eventColumns, pgx.CopyFromSlice(len(add.Records), func(n int) ([]any, error) {
		e := &add.Records[n].Event
		return []any{
			head + int64(n), [16]byte(e.EventID), e.EventTimestamp, e.EventType, e.EventCategory, e.EventOutcome, e.CorrelationID,
			orNull(e.Severity), orNull(e.ResourceID), orNull(e.Namespace), add.RecordedAt, add.Records[n].LeafHash[:],
		}, nil
	}))
	if err != nil {
		return nil, err
	}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{month}, bodyColumns, pgx.CopyFromSlice(len(add.Records), func(n int) ([]any, error) {
		record := &add.Records[n]
		return []any{add.RecordedAt, head + int64(n), expiresAt(record, add.RecordedAt), record.Body}, nil
	}))
	return &month, err
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// expiresAt is the column of that name.
func expiresAt(r *datastorage.Record, recordedAt time.Time) any {
	at, says := r.ExpiresAt(recordedAt)
	switch {
	case !says:
		return nil
	case at.IsZero():
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return at
}

// CheckWrite is as datastorage.Store says.
func (s *store) CheckWrite(ctx context.Context) error {
	var current int64
	err := s.writer.QueryRow(ctx, `WITH probe AS (UPDATE write_probe SET probed_at = now())
		SELECT max(version_id) FROM goose_db_version`).Scan(&current)
	if err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	return datastorage.CheckSchema(current, s.schema)
}
