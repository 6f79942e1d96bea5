package verify

import (
	"cmp"
	"slices"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// expired holds the events that have no bytes any more to what the log says about
// that. What it says is known before the events are gone through, and is among
// what is verified then.
type expired struct {
	report *report
	ranges []expiredRange // by index
	all    []*expiry
}

// expiry is a datastorage.Expiry with the tree over what remains.
type expiry struct {
	datastorage.Expiry
	remains ledger.Tree
}

type expiredRange struct {
	first, last int64
	of          *expiry
}

func (x *expired) add(e datastorage.Expiry) {
	x.all = append(x.all, &expiry{Expiry: e})
	for _, r := range e.LogIndices {
		x.ranges = append(x.ranges, expiredRange{r[0], r[1], x.all[len(x.all)-1]})
	}
}

// ready is called between add and row.
func (x *expired) ready() {
	slices.SortFunc(x.ranges, func(a, b expiredRange) int { return cmp.Compare(a.first, b.first) })
}

// row takes note of an event, of which line is what an export has.
func (x *expired) row(row *datastorage.Row, line func() []byte) {
	at, _ := slices.BinarySearchFunc(x.ranges, row.LogIndex, func(r expiredRange, index int64) int { return cmp.Compare(r.last, index) })
	found := at < len(x.ranges) && x.ranges[at].first <= row.LogIndex
	switch {
	case found && row.Body == nil:
		x.ranges[at].of.remains.Append(ledger.LeafHash(line()))
	case found:
		x.report.addEvent(row.LogIndex, row.ID(), "it is there again, and event %d says that it has expired", x.ranges[at].of.LogIndex)
	case row.Body == nil:
		x.report.addEvent(row.LogIndex, row.ID(), "its bytes were deleted: no event says that it has expired")
	}
}

// finish compares what remains with what remained, for events from an index on.
func (x *expired) finish(from int64) {
	for _, e := range x.all {
		if len(e.LogIndices) == 0 || e.LogIndices[0][0] < from || e.remains.Size() != int64(e.Count) {
			continue // What is missing is among the findings.
		}
		if e.remains.Root() != e.RemainsRoot {
			x.report.add(e.LogIndices[0][0], "of the expired events %d to %d, at least one has other columns than it had when it expired, as event %d shows",
				e.LogIndices[0][0], e.LogIndices[len(e.LogIndices)-1][1], e.LogIndex)
		}
	}
}
