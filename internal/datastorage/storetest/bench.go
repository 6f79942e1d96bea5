package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage"
)

// Benchmark reports the events per second that one caller appends to the store,
// and right after it those of raw, which writes the same rows to a table with
// the same indices and does nothing else.
func Benchmark(b *testing.B, store datastorage.Store, raw func(context.Context, []datastorage.Record, int64) error) {
	log := OpenLog(b, store)
	next := 0
	batch := func(size int) []datastorage.Record {
		records := make([]datastorage.Record, size)
		for i := range records {
			records[i] = Record(next)
			next++
		}
		return records
	}
	measure := func(name string, size int, write func([]datastorage.Record, int64) error) {
		b.Run(fmt.Sprintf("%s/batch=%d", name, size), func(b *testing.B) {
			var spent time.Duration
			for b.Loop() {
				first := int64(next)
				records := batch(size)
				start := time.Now()
				if err := write(records, first); err != nil {
					b.Fatal(err)
				}
				spent += time.Since(start)
			}
			// Making the records is not part of the figure.
			b.ReportMetric(float64(b.N*size)/spent.Seconds(), "events/s")
			b.ReportMetric(0, "ns/op")
		})
	}
	for _, size := range []int{10, 100, 1000} {
		measure("store", size, func(records []datastorage.Record, _ int64) error {
			_, err := log.Append(b.Context(), records)
			return err
		})
		measure("raw", size, func(records []datastorage.Record, first int64) error {
			return raw(b.Context(), records, first)
		})
	}
}

var (
	rawEvents = []string{
		"log_index", "event_id", "event_timestamp", "event_type", "event_category", "event_outcome",
		"correlation_id", "severity", "resource_id", "namespace", "recorded_at", "leaf_hash",
	}
	rawBodies = []string{"recorded_at", "log_index", "event"}
)

// RawPostgres copies rows into tables made like the log's.
func RawPostgres(b *testing.B, conn *pgx.Conn) func(context.Context, []datastorage.Record, int64) error {
	if _, err := conn.Exec(b.Context(), "CREATE TABLE raw_events (LIKE audit_events INCLUDING ALL); CREATE TABLE raw_bodies (LIKE audit_bodies INCLUDING ALL)"); err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context, records []datastorage.Record, first int64) error {
		now := time.Now()
		events := pgx.CopyFromSlice(len(records), func(i int) ([]any, error) {
			r := &records[i]
			e := &r.Event
			return []any{
				first + int64(i), [16]byte(e.EventID), e.EventTimestamp, e.EventType, e.EventCategory, e.EventOutcome,
				e.CorrelationID, e.Severity, e.ResourceID, e.Namespace, now, r.LeafHash[:],
			}, nil
		})
		bodies := pgx.CopyFromSlice(len(records), func(i int) ([]any, error) { return []any{now, first + int64(i), records[i].Body}, nil })
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{"raw_events"}, rawEvents, events); err != nil {
				return err
			}
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"raw_bodies"}, rawBodies, bodies)
			return err
		})
	}
}

// RawSQLite inserts rows by prepared statements, in one transaction a batch,
// into tables made like the log's.
func RawSQLite(b *testing.B, db *sql.DB) func(context.Context, []datastorage.Record, int64) error {
	rows, err := db.Query("SELECT sql FROM sqlite_schema WHERE tbl_name IN ('audit_events', 'audit_bodies') AND sql IS NOT NULL")
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	var statements []string
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			b.Fatal(err)
		}
		statements = append(statements, strings.ReplaceAll(statement, "audit_", "raw_"))
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			b.Fatal(err)
		}
	}
	insert := func(table string, columns []string) string {
		return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
	}
	return func(ctx context.Context, records []datastorage.Record, first int64) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		events, err := tx.PrepareContext(ctx, insert("raw_events", rawEvents))
		if err != nil {
			return err
		}
		defer events.Close()
		bodies, err := tx.PrepareContext(ctx, insert("raw_bodies", rawBodies))
		if err != nil {
			return err
		}
		defer bodies.Close()
		now := time.Now().UnixMicro()
		for i := range records {
			r := &records[i]
			e := &r.Event
			if _, err := events.ExecContext(ctx, first+int64(i), e.EventID.String(), e.EventTimestamp.UnixMicro(), e.EventType,
				e.EventCategory, e.EventOutcome, e.CorrelationID, e.Severity, e.ResourceID, e.Namespace, now, r.LeafHash[:]); err != nil {
				return err
			}
			if _, err := bodies.ExecContext(ctx, now, first+int64(i), string(r.Body)); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
}
