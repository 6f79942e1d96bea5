package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kubernaut.ai/notification/internal/datastorage"
)

// partition is the name of a month's partition, as time.Format has it.
const partition = "audit_bodies_2006_01"

// makePartition makes the partition of a month unless it is there. It is attached
// when it is made, since to make it as one would lock out those who read.
func makePartition(ctx context.Context, tx *pgx.Conn, name string, at time.Time) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&there); err != nil || there {
		return err
	}
	first := monthOf(at)
	_, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE %[1]s (LIKE audit_bodies INCLUDING ALL);
		ALTER TABLE audit_bodies ATTACH PARTITION %[1]s FOR VALUES FROM ('%[2]s') TO ('%[3]s')`,
		name, first.Format(time.RFC3339), first.AddDate(0, 1, 0).Format(time.RFC3339)))
	return err
}

// monthOf is the first instant of a time's month.
func monthOf(at time.Time) time.Time {
	year, month, _ := at.UTC().Date()
	return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
}

// Expirable is as datastorage.Tx says. The server's clock has a say too, since a
// clock that is ahead would have removed what nothing brings back. The lateral join
// makes the planner look up each event in the index: the other joins that it knows
// read all there are, while nobody can write.
func (r reader) Expirable(ctx context.Context, sweep *datastorage.Sweep, limit int) ([]datastorage.Stored, error) {
	const (
		old  = "SELECT old.log_index, old.expires_at, old.event FROM audit_bodies AS old CROSS JOIN LATERAL (SELECT correlation_id, event_timestamp FROM audit_events WHERE log_index = old.log_index LIMIT 1) AS e"
		free = "NOT EXISTS (SELECT FROM audit_holds WHERE correlation_id = e.correlation_id)"
	)
	var until any
	if !sweep.Policy.IsZero() {
		until = sweep.Policy
	}
	rows, err := r.Query(ctx, selectEvents+`, old.event FROM (SELECT log_index, event, sum(octet_length(event)) OVER (ORDER BY expires_at, log_index) - octet_length(event) AS before FROM (
		(`+old+` WHERE expires_at >= $5 AND expires_at <= least($1, now()) AND `+free+` ORDER BY expires_at LIMIT $3)
		UNION ALL
		(`+old+` WHERE expires_at IS NULL AND log_index >= $6 AND recorded_at <= least($2, now() + ($2 - $1)) AND event_timestamp <= least($2, now() + ($2 - $1)) AND `+free+` ORDER BY log_index LIMIT $3)
		) AS old ORDER BY before LIMIT $3
		) AS old JOIN audit_events AS e USING (log_index) WHERE before < $4 ORDER BY log_index`,
		sweep.Now, until, limit, datastorage.MaxPageBytes, sweep.Until, sweep.LogIndex)
	if err != nil {
		return nil, fmt.Errorf("find what expires: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (datastorage.Stored, error) {
		var body []byte
		e, err := scanEvent(row, &body)
		if err == nil {
			err = sweep.Found(&e, body)
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read what expires: %w", err)
	}
	return list, nil
}

const selectHolds = "SELECT correlation_id, reason, placed_by, placed_at FROM audit_holds"

// Hold is as datastorage.Tx says.
func (r reader) Hold(ctx context.Context, correlationID string) (datastorage.Hold, bool, error) {
	rows, err := r.Query(ctx, selectHolds+" WHERE correlation_id = $1", correlationID)
	if err != nil {
		return datastorage.Hold{}, false, fmt.Errorf("read hold: %w", err)
	}
	hold, err := pgx.CollectExactlyOneRow(rows, scanHold)
	if errors.Is(err, pgx.ErrNoRows) {
		return hold, false, nil
	}
	return hold, err == nil, err
}

// Holds is as datastorage.Queries says.
func (s *store) Holds(ctx context.Context) ([]datastorage.Hold, error) {
	rows, err := s.pool.Query(ctx, selectHolds+" ORDER BY correlation_id")
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	holds, err := pgx.CollectRows(rows, scanHold)
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	return holds, nil
}

func scanHold(row pgx.CollectableRow) (datastorage.Hold, error) {
	hold, err := pgx.RowToStructByPos[datastorage.Hold](row)
	hold.PlacedAt = hold.PlacedAt.UTC()
	return hold, err
}

// retain removes the bodies of what has expired, and changes the holds.
func retain(ctx context.Context, tx *pgxpool.Conn, add datastorage.Addition) error {
	if err := removeBodies(ctx, tx, add.Expired); err != nil {
		return err
	}
	if h := add.Placed; h != nil {
		if _, err := tx.Exec(ctx, "INSERT INTO audit_holds (correlation_id, reason, placed_by, placed_at) VALUES ($1, $2, $3, $4)",
			h.CorrelationID, h.Reason, h.PlacedBy, h.PlacedAt); err != nil {
			return fmt.Errorf("place hold: %w", err)
		}
	}
	if add.Released != "" {
		if _, err := tx.Exec(ctx, "DELETE FROM audit_holds WHERE correlation_id = $1", add.Released); err != nil {
			return fmt.Errorf("release hold: %w", err)
		}
	}
	return nil
}

// removeBodies names each row by its key. A ctid would not do: rows of other
// partitions have the same. It goes by months, since the planner reads all of
// several partitions to find rows in them.
func removeBodies(ctx context.Context, tx *pgxpool.Conn, expired []datastorage.Stored) error {
	months := map[time.Time][]datastorage.Stored{}
	for _, e := range expired {
		months[monthOf(e.RecordedAt)] = append(months[monthOf(e.RecordedAt)], e)
	}
	for _, some := range months {
		if err := removeMonth(ctx, tx, some); err != nil {
			return err
		}
	}
	return nil
}

func removeMonth(ctx context.Context, tx *pgxpool.Conn, expired []datastorage.Stored) error {
	k := keysOf(expired)
	tag, err := tx.Exec(ctx, `DELETE FROM audit_bodies AS b USING unnest($1::timestamptz[], $2::bigint[]) AS k (recorded_at, log_index)
		WHERE b.recorded_at = k.recorded_at AND b.log_index = k.log_index AND b.recorded_at BETWEEN $3 AND $4`, k.recorded, k.indices, k.first, k.last)
	if err != nil {
		return fmt.Errorf("remove bodies: %w", err)
	}
	if n := tag.RowsAffected(); n != int64(len(expired)) {
		return fmt.Errorf("remove bodies: %d of %d were there", n, len(expired))
	}
	return nil
}

// keys are those of bodies, and the time that they span, without which the
// planner would look into each partition.
type keys struct {
	recorded    []time.Time
	indices     []int64
	first, last time.Time
}

func keysOf(events []datastorage.Stored) keys {
	k := keys{first: events[0].RecordedAt, last: events[0].RecordedAt}
	for i := range events {
		at := events[i].RecordedAt
		k.recorded, k.indices = append(k.recorded, at), append(k.indices, events[i].LogIndex)
		if at.Before(k.first) {
			k.first = at
		}
		if at.After(k.last) {
			k.last = at
		}
	}
	return k
}

// addBodies gives events their bodies, those that have one, and ends the transaction.
// It ends once they are large, and returns of how many it knows the body.
func addBodies(ctx context.Context, conn *pgxpool.Conn, events []datastorage.Stored) (int, error) {
	n := 0
	var batch pgx.Batch
	if len(events) > 0 {
		k := keysOf(events)
		batch.Queue(`SELECT b.event FROM unnest($1::timestamptz[], $2::bigint[]) WITH ORDINALITY AS k (recorded_at, log_index, n)
			LEFT JOIN LATERAL (SELECT event FROM audit_bodies WHERE recorded_at = k.recorded_at AND log_index = k.log_index AND recorded_at BETWEEN $3 AND $4 LIMIT 1) AS b ON true
			ORDER BY k.n`, k.recorded, k.indices, k.first, k.last).Query(func(rows pgx.Rows) error {
			for size := 0; size < datastorage.MaxPageBytes && rows.Next(); n++ {
				if err := rows.Scan(&events[n].Body); err != nil {
					return err
				}
				size += len(events[n].Body)
			}
			return nil // of the rest, nothing is wanted
		})
	}
	batch.Queue("COMMIT")
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return n, fmt.Errorf("read bodies: %w", err)
	}
	return n, nil
}

// Reclaim is as datastorage.Writer says. It drops partitions that are empty while
// nobody appends, and gives up at once where somebody reads for long.
func (s *store) Reclaim(ctx context.Context, now time.Time) error {
	err := pgx.BeginFunc(ctx, s.writer, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'; SELECT FROM audit_log_head FOR UPDATE"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_bodies'::regclass ORDER BY 1")
		if err != nil {
			return err
		}
		months, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, month := range months {
			begins, err := time.Parse(partition, month)
			if err != nil || !begins.Before(monthOf(now)) {
				continue // Somebody else's, or still in use.
			}
			name := pgx.Identifier{month}.Sanitize()
			var used bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+name+")").Scan(&used); err != nil {
				return err
			}
			if !used {
				if _, err := tx.Exec(ctx, "DROP TABLE "+name); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("drop empty partitions: %w", err)
	}
	return nil
}
