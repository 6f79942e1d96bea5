package dlq

import (
	"container/heap"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// index knows where each event is that waits or was rejected.
type index struct {
	letters map[uuid.UUID]*letter
	turns   turns
	batches []*batch // that have events left, in the order in which they came
	last    uint64   // order of the newest letter
	// resting are the rejected events that are not offered before a time. rests
	// has them in the order of these times, and others that rest no more.
	resting map[uuid.UUID]time.Time
	rests   []rest
}

type rest struct {
	id    uuid.UUID
	until time.Time
}

// letter is an event that waits.
type letter struct {
	id    uuid.UUID
	batch *batch
	tries int
	order uint64
	place int // among turns, -1 while it is taken
}

// batch is what came together.
type batch struct {
	seq  int64 // of the row that holds the events; 0: each is a row of rejected
	at   time.Time
	left int // events that wait
}

func newIndex() index {
	return index{letters: map[uuid.UUID]*letter{}, resting: map[uuid.UUID]time.Time{}}
}

// add lets events wait, behind those that were tried as often.
func (x *index) add(b *batch, ids []uuid.UUID, tries int) {
	for _, id := range ids {
		x.last++
		l := &letter{id: id, batch: b, tries: tries, order: x.last}
		x.letters[id] = l
		heap.Push(&x.turns, l)
	}
	b.left = len(ids)
	x.batches = append(x.batches, b)
}

// remove returns the batch in which the event waited, nil where it is not known.
func (x *index) remove(id uuid.UUID) *batch {
	if _, ok := x.resting[id]; ok {
		delete(x.resting, id)
		return &batch{}
	}
	l := x.letters[id]
	if l == nil {
		return nil
	}
	delete(x.letters, id)
	if l.place >= 0 {
		heap.Remove(&x.turns, l.place)
	}
	if l.batch.left--; l.batch.left == 0 {
		i := slices.Index(x.batches, l.batch)
		x.batches = slices.Delete(x.batches, i, i+1)
	}
	return l.batch
}

// forgetBatch removes all events that are in one row, and returns their number.
func (x *index) forgetBatch(with *letter) int {
	if with.batch.seq == 0 {
		x.remove(with.id)
		return 1
	}
	n := 0
	for id, l := range x.letters {
		if l.batch == with.batch {
			x.remove(id)
			n++
		}
	}
	return n
}

// missing returns the events of one index that another does not know.
func missing(of, in index) (ids []uuid.UUID) {
	for _, known := range []iter.Seq[uuid.UUID]{maps.Keys(of.letters), maps.Keys(of.resting)} {
		for id := range known {
			if _, resting := in.resting[id]; !resting && in.letters[id] == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (x *index) oldest() time.Time {
	if len(x.batches) == 0 {
		return time.Time{}
	}
	return x.batches[0].at
}

// take returns the event whose turn it is, until it is given back.
func (x *index) take() *letter { return heap.Pop(&x.turns).(*letter) }

func (x *index) giveBack(taken []*letter) {
	for _, l := range taken {
		if x.letters[l.id] == l {
			l.tries++
			heap.Push(&x.turns, l)
		}
	}
}

// restUntil keeps a rejected event from being offered before a time. The times of
// later calls are not before those of earlier ones.
func (x *index) restUntil(id uuid.UUID, until time.Time) {
	x.resting[id] = until
	x.rests = append(x.rests, rest{id, until})
}

// wakeDue lets the rejected events wait that have rested.
func (x *index) wakeDue(now time.Time) {
	var due []uuid.UUID
	for len(x.rests) > 0 {
		r := x.rests[0]
		if r.until.After(now) {
			break
		}
		if until, resting := x.resting[r.id]; resting && until.Equal(r.until) {
			delete(x.resting, r.id)
			due = append(due, r.id)
		}
		x.rests = x.rests[1:]
	}
	x.offer(due, now)
}

// wake lets an event wait that was rejected, and reports whether it was.
func (x *index) wake(id uuid.UUID, now time.Time) bool {
	if _, ok := x.resting[id]; !ok {
		return false
	}
	delete(x.resting, id)
	x.offer([]uuid.UUID{id}, now)
	return true
}

// offer counts rejected events as tried, so that they come after those that
// never were.
func (x *index) offer(ids []uuid.UUID, now time.Time) {
	if len(ids) > 0 {
		x.add(&batch{at: now}, ids, 1)
	}
}

// turns is a heap: those tried least often come first, and of these the oldest.
type turns []*letter

func (t *turns) Len() int { return len(*t) }

func (t *turns) Less(i, j int) bool {
	a, b := (*t)[i], (*t)[j]
	if a.tries != b.tries {
		return a.tries < b.tries
	}
	return a.order < b.order
}

func (t *turns) Swap(i, j int) {
	a, b := (*t)[i], (*t)[j]
	(*t)[i], (*t)[j] = b, a
	a.place, b.place = j, i
}

func (t *turns) Push(x any) {
	l := x.(*letter)
	l.place = len(*t)
	*t = append(*t, l)
}

func (t *turns) Pop() any {
	n := len(*t) - 1
	l := (*t)[n]
	(*t)[n] = nil
	*t = (*t)[:n]
	l.place = -1
	return l
}
