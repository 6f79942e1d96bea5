package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// keptAtOnce is how many checkpoints one statement reads.
const keptAtOnce = 1000

// storedLog is a stored log under verification.
type storedLog struct {
	*checker
	log  datastorage.Reader
	size int64

	said int64 // size of the log of which is known what has expired

	tile      []ledger.Hash // nil where it is missing or damaged
	tileIndex int64
}

// stored verifies a stored log. Events may be added to it meanwhile.
func stored(ctx context.Context, c *checker, log datastorage.Reader) error {
	head, err := log.Head(ctx)
	if errors.Is(err, datastorage.ErrTampered) {
		c.add(-1, "the head of the log is missing: its row was deleted. Without it nothing else can be checked")
		return nil
	}
	if err != nil {
		return err
	}
	s := &storedLog{checker: c, log: log, tileIndex: -1}
	s.setVerifier(head.Verifier, "the head of the log")
	s.readHead(head)
	s.marks.kept = s.keptReader(ctx)
	have, err := log.Holds(ctx)
	if err != nil {
		return err
	}
	s.expired.more = func() error { return s.readExpiries(ctx) }
	if err := s.readExpiries(ctx); err != nil {
		return err
	}
	if err := s.events(ctx); err != nil {
		return err
	}
	if err := s.checkHolds(ctx, have); err != nil {
		return err
	}
	return c.finish(func() (int64, error) { return s.beyond(ctx) })
}

// readExpiries reads what the log says of what has expired, where it has grown.
func (s *storedLog) readExpiries(ctx context.Context) error {
	head, err := s.log.Head(ctx)
	if err != nil || head.Size == s.said {
		return err
	}
	for e, err := range datastorage.Expiries(ctx, s.log) {
		if err != nil {
			return err
		}
		s.expired.add(e)
	}
	s.said = head.Size
	s.expired.ready()
	return nil
}

// readHead decides how many events are verified.
func (s *storedLog) readHead(head datastorage.Head) {
	m := mark{name: "the checkpoint in the head of the log", size: head.Size, signed: head.Checkpoint}
	s.size = head.Size
	if c, err := ledger.Verify(head.Checkpoint, s.verifier); err == nil && c.Size != head.Size {
		s.add(-1, "the head of the log was changed: it says that there are %d events, and the checkpoint in it is of %d", head.Size, c.Size)
		m.size, s.size = c.Size, c.Size
	} else if err != nil {
		s.add(-1, "%s", m.check(s.verifier))
		return
	}
	s.marks.add(m)
}

func (s *storedLog) keptReader(ctx context.Context) func() (*datastorage.Kept, error) {
	var page []datastorage.Kept
	var after int64 = math.MinInt64
	return func() (*datastorage.Kept, error) {
		if len(page) == 0 {
			var err error
			if page, err = s.log.Kept(ctx, after, keptAtOnce); err != nil || len(page) == 0 {
				return nil, err
			}
		}
		kept := page[0]
		page, after = page[1:], kept.ID
		return &kept, nil
	}
}

// events goes through the events up to size.
func (s *storedLog) events(ctx context.Context) error {
	for row, err := range datastorage.EachRow(ctx, s.log, math.MinInt64, s.size) {
		if err != nil {
			return err
		}
		if row.LogIndex < s.next {
			s.addEvent(row.LogIndex, row.ID(), "it was put in: another event has its index, or its index is none")
			continue
		}
		if err := s.absent(ctx, row.LogIndex); err != nil {
			return err
		}
		if body, column := row.Hashes(); body == column {
			if wrong := row.WrongColumns(); wrong != "" {
				s.addEvent(row.LogIndex, row.ID(), "%s", wrong)
			}
		}
		if err := s.at(ctx, row); err != nil {
			return err
		}
		if err := s.expired.stored(row); err != nil {
			return err
		}
		s.progress.at(s.next, s.size)
	}
	return s.absent(ctx, s.size)
}

// absent goes past events that are missing.
func (s *storedLog) absent(ctx context.Context, to int64) error {
	for s.next < to {
		if err := s.readTile(ctx); err != nil {
			return err
		}
		if s.tile == nil {
			// However many are missing, it takes no time to go past them.
			return s.skip(to)
		}
		if err := s.at(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// at goes past the next index, with the event there or nil.
func (s *storedLog) at(ctx context.Context, row *datastorage.Row) error {
	if err := s.readTile(ctx); err != nil {
		return err
	}
	var leaf *ledger.Hash
	if s.tile != nil {
		leaf = &s.tile[s.next%ledger.TileWidth]
	}
	full, err := s.step(row, leaf)
	if err != nil {
		return err
	}
	return s.checkTiles(ctx, full)
}

// readTile reads the tile that has the next leaf.
func (s *storedLog) readTile(ctx context.Context) error {
	index := s.next / ledger.TileWidth
	if index == s.tileIndex {
		return nil
	}
	s.tile, s.tileIndex = nil, index
	if (index+1)*ledger.TileWidth > s.size {
		return nil
	}
	data, err := s.stored(ctx, 0, index)
	if err != nil || data == nil {
		return err
	}
	tile, err := ledger.ParseTile(0, index, data)
	if err != nil {
		s.add(s.next, "tile %d of level 0 was changed: %v", index, err)
		return nil
	}
	s.tile = tile.Hashes
	return nil
}

// stored returns a tile that should be there.
func (s *storedLog) stored(ctx context.Context, level int, index int64) ([]byte, error) {
	rows, err := s.log.Hashes(ctx, level, index, index+1)
	if err != nil {
		return nil, fmt.Errorf("read tile: %w", err)
	}
	if len(rows) == 0 {
		s.add(index<<(ledger.TileHeight*(level+1)), "tile %d of level %d is missing: it was deleted", index, level)
		return nil, nil
	}
	return rows[0].Data, nil
}

// checkTiles compares the tiles above level 0 that are full with those stored. With
// those of level 0 the events are compared.
func (s *storedLog) checkTiles(ctx context.Context, full []ledger.Tile) error {
	for level := 1; ; level++ {
		first := slices.IndexFunc(full, func(t ledger.Tile) bool { return t.Level == level })
		if first < 0 {
			return nil
		}
		data, err := s.stored(ctx, level, full[first].Index)
		if err != nil {
			return err
		}
		same := func(t ledger.Tile) bool { return t.Level == level && bytes.Equal(t.Bytes(), data) }
		if data != nil && !slices.ContainsFunc(full, same) {
			s.add(s.next-1, "tile %d of level %d was changed: it does not have the hashes of the tiles below it", full[first].Index, level)
		}
	}
}

// beyond looks for events beyond the end, and returns how many there are by now.
func (s *storedLog) beyond(ctx context.Context) (int64, error) {
	for end := s.size; ; {
		rows, err := s.log.Rows(ctx, end, math.MaxInt64, 1)
		if err != nil {
			return 0, fmt.Errorf("read events: %w", err)
		}
		head, err := s.log.Head(ctx)
		if err != nil {
			return 0, err
		}
		// The head moves in the transaction that adds an event.
		end = max(s.size, head.Size)
		if len(rows) == 0 {
			return end, nil
		}
		if row := rows[0]; row.LogIndex >= end {
			s.addEvent(row.LogIndex, row.ID(), "it was put in beyond the end: the head of the log says that there are %d events", end)
			return end, nil
		}
	}
}
