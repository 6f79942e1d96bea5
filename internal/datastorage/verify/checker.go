package verify

import (
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// clockSlack is how far the clocks of those who write may differ.
const clockSlack = time.Minute

// checker follows a log from one leaf to the next. It needs the same memory for a
// log of any length.
//
// There are two accounts of what the leaves are: the events' own bytes, and the
// tiles with, right of them, the column leaf_hash. A tree grows of each. Where they
// differ, the next checkpoint says which is right.
type checker struct {
	*report
	marks    marks
	unsigned bool // a kept checkpoint was not signed

	next    int64        // index of the next leaf
	bodies  *ledger.Tree // nil where it cannot be known
	tiles   *ledger.Tree // nil where it cannot be known
	doubts  *doubts
	expired expired

	agreed  int64     // size of the last mark that agreed
	signed  time.Time // when that was
	lost    bool      // a mark did not agree, and none since has
	missing int64     // first of the events before next that are missing, or negative
}

func newChecker(r *report, verifier string) *checker {
	r.verifier = verifier
	return &checker{report: r, bodies: &ledger.Tree{}, tiles: &ledger.Tree{}, doubts: newDoubts(r), expired: expired{report: r, said: map[int64]bool{}, holds: holds{}}, missing: -1}
}

// setVerifier decides on the public key: the one that was given, or else the one
// that comes with what is verified.
func (c *checker) setVerifier(own, where string) {
	if _, err := note.NewVerifier(own); err != nil {
		c.add(-1, "the public key %q in %s is damaged, or was taken out", own, where)
	} else if c.verifier != "" && own != c.verifier {
		c.add(-1, "the key was changed: the public key in %s is %q, and should be %q", where, own, c.verifier)
	}
	if c.verifier == "" {
		c.verifier = own
	}
}

// step goes past the next index. row is nil where there is no event, and tile where
// there is no tile that has the leaf. It returns the tiles that are full now, by
// both accounts.
func (c *checker) step(row *datastorage.Row, tile *ledger.Hash) (full []ledger.Tile, err error) {
	if err := c.passMarks(); err != nil {
		return nil, err
	}
	leaf := tile
	if row == nil {
		c.miss()
	} else {
		c.present()
		d := doubt{index: c.next, eventID: row.ID(), tile: tile != nil}
		d.body, d.column = row.Hashes()
		if leaf == nil {
			leaf = &d.column
		}
		if d.leaf = *leaf; d.body != d.column || d.body != d.leaf {
			c.doubts.add(&d)
		}
		if c.bodies != nil {
			full = c.bodies.Append(d.body)
		}
		if err := c.checkRecordedAt(row); err != nil {
			return nil, err
		}
	}
	if leaf == nil {
		c.tiles = nil
	} else if c.tiles != nil {
		full = append(full, c.tiles.Append(*leaf)...)
	}
	c.next++
	return full, nil
}

// miss notes that there is no event at the next index.
func (c *checker) miss() {
	if c.bodies = nil; c.missing < 0 {
		c.missing = c.next
	}
}

// present ends the events that are missing, where there are any.
func (c *checker) present() {
	switch {
	case c.missing < 0:
		return
	case c.missing == c.next-1:
		c.add(c.missing, "event %d is missing: it was deleted", c.missing)
	default:
		c.add(c.missing, "the events %d to %d are missing: they were deleted", c.missing, c.next-1)
	}
	c.missing = -1
}

// skip goes past events of which nothing is there, from one mark to the next: with
// that of the events before them the trees are compared, with those among them not.
func (c *checker) skip(to int64) error {
	for c.next < to {
		if err := c.passMarks(); err != nil {
			return err
		}
		m, err := c.marks.peek()
		if err != nil {
			return err
		}
		c.miss()
		if c.tiles, c.next = nil, to; m != nil {
			c.next = min(to, m.size)
		}
	}
	return nil
}

// checkRecordedAt compares what no hash covers with the times at which checkpoints
// were signed before and after.
func (c *checker) checkRecordedAt(row *datastorage.Row) error {
	after, err := c.marks.peek()
	at, ok := row.RecordedAt()
	if err != nil || after == nil || !ok || c.signed.IsZero() || after.check(c.verifier) != "" || after.time.IsZero() {
		return err
	}
	earliest, latest := c.signed, after.time
	if latest.Before(earliest) {
		earliest, latest = latest, earliest
	}
	if at.Before(earliest.Add(-clockSlack)) || at.After(latest.Add(clockSlack)) {
		c.addEvent(c.next, row.ID(), "its recorded_at was changed, or a clock was wrong: it says %s, and the checkpoints before and after it were signed at %s and %s",
			at.Format(time.RFC3339Nano), c.signed.Format(time.RFC3339Nano), after.time.Format(time.RFC3339Nano))
	}
	return nil
}

// passMarks compares the trees with all marks of the size that they have now.
func (c *checker) passMarks() error {
	for {
		m, err := c.marks.peek()
		if err != nil || m == nil || m.size > c.next {
			return err
		}
		c.marks.skip(m)
		if !c.sound(m) {
			continue
		}
		switch {
		case m.size == c.next:
			c.compare(m)
		case m.given:
			c.add(m.size, "%s cannot be compared: what is verified begins later", m.name)
		default:
			c.add(m.size, "%s is out of order: it comes after one of more events", m.name)
		}
	}
}

// sound reports whether a mark is what somebody signed.
func (c *checker) sound(m *mark) bool {
	wrong := m.check(c.verifier)
	switch {
	case wrong == "":
		return true
	case m.given || !c.unsigned:
		c.add(m.size, "%s", wrong)
		c.unsigned = c.unsigned || !m.given
	default:
		c.total++
	}
	return false
}

// compare holds the trees to a mark of their size.
func (c *checker) compare(m *mark) {
	switch {
	case c.bodies == nil && c.tiles == nil:
		return // Why is among the findings.
	case c.bodies != nil && c.bodies.Root() == m.root:
		c.doubts.settle(true)
		c.tiles = c.bodies.Clone()
	case c.tiles != nil && c.tiles.Root() == m.root:
		c.doubts.proven = c.next
		c.bodies = c.tiles.Clone()
	default:
		c.contradict(m)
		return
	}
	if !m.time.IsZero() && m.time.Before(c.signed.Add(-clockSlack)) {
		c.stepped(fmt.Sprintf("%s was signed at %s, and the one before it, of %d events, at %s",
			m.name, m.time.Format(time.RFC3339Nano), c.agreed, c.signed.Format(time.RFC3339Nano)))
	}
	c.agreed, c.signed, c.lost = c.next, m.time, false
	if m.given {
		c.given++
	} else {
		c.kept++
	}
}

// contradict tells of a mark that neither tree agrees with.
func (c *checker) contradict(m *mark) {
	if c.lost && !m.given {
		c.total++
		return
	}
	c.lost = true
	tree := c.bodies
	if tree == nil {
		tree = c.tiles
	}
	what := "at least one was changed together with its leaf hash, was put in, taken out or moved, or the log is a fork: another history that the same key has signed"
	if m.signed == "" {
		what = "at least one is another one then, or the receipt was changed"
	}
	c.add(c.agreed, "%s has the root %s, and the first %d events there are have the root %s. Of the events %d to %d %s",
		m.name, m.root, m.size, tree.Root(), c.agreed, m.size-1, what)
}

// finish holds the log to what is left of the marks. What was added meanwhile is not
// verified; size, which is asked once all marks are known, returns how many events
// there are with it.
func (c *checker) finish(size func() (int64, error)) error {
	if err := c.passMarks(); err != nil {
		return err
	}
	c.present()
	c.doubts.settle(false)
	c.expired.finish()
	if c.to = c.next; c.bodies != nil {
		c.root = c.bodies.Root()
	}
	var newest mark
	var given []mark
	for {
		m, err := c.marks.peek()
		if err != nil {
			return err
		}
		if m == nil {
			break
		}
		c.marks.skip(m)
		if !c.sound(m) {
			continue
		}
		if m.size > newest.size {
			newest = *m
		}
		if m.given {
			given = append(given, *m)
		}
	}
	end, err := size()
	if err != nil {
		return err
	}
	for _, m := range given {
		if m.size <= end {
			c.add(m.size, "%s was not reached: what was verified ends at %d events", m.name, c.next)
		}
	}
	if newest.size > end {
		c.add(end, "the newest %d events are missing: %s vouches for %d, and the log has %d. They were deleted, or an old copy was put in the place of the log",
			newest.size-end, newest.name, newest.size, end)
	}
	return nil
}
