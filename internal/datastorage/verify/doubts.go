package verify

import (
	"fmt"
	"maps"
	"slices"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// maxDoubts bounds the memory that a log takes of which much was changed.
const maxDoubts = 1 << 14

// doubt is an event of which the accounts differ.
type doubt struct {
	index        int64
	eventID      string
	body, column ledger.Hash // as datastorage.Row.Hashes has them
	leaf         ledger.Hash // in the tile where there is one, or else column
	tile         bool
	home         *int64 // index at which the tiles have this event, where it is known
	found        *int64 // index of the event that the tiles have here, where it is known
}

// doubts finds out what was done to events. What the tiles have is taken for right
// until a checkpoint says otherwise.
type doubts struct {
	report *report
	proven int64 // size at which a checkpoint said that the tiles are right
	last   int64 // index of the last doubt
	at     map[int64]*doubt
	// events and leaves are where those are whose counterpart is not known.
	events, leaves map[ledger.Hash]int64
}

func newDoubts(r *report) *doubts {
	return &doubts{report: r, at: map[int64]*doubt{}, events: map[ledger.Hash]int64{}, leaves: map[ledger.Hash]int64{}}
}

func (s *doubts) add(d *doubt) {
	if len(s.at) >= maxDoubts {
		s.report.total++
		return
	}
	s.at[d.index], s.last = d, d.index
	if d.body != d.column || !d.tile {
		return // It was changed where it is.
	}
	if home, ok := s.leaves[d.body]; ok {
		delete(s.leaves, d.body)
		s.link(d.index, home)
	} else {
		s.events[d.body] = d.index
	}
	if index, ok := s.events[d.leaf]; ok {
		delete(s.events, d.leaf)
		s.link(index, d.index)
	} else {
		s.leaves[d.leaf] = d.index
	}
}

// link notes that the event at an index is the one that the tiles have at another.
func (s *doubts) link(index, home int64) {
	event, place := s.at[index], s.at[home]
	event.home, place.found = &home, &index
	for _, d := range []*doubt{place, event} {
		// Two that were swapped wait for what a checkpoint says.
		if d.home != nil && d.found != nil && *d.home != *d.found {
			s.report.addEvent(d.index, d.eventID, "it was moved: its index is %d", *d.home)
			delete(s.at, d.index)
		}
	}
}

// settle makes findings of the doubts: of all, or of those of which a checkpoint
// says that the events' bytes are right.
func (s *doubts) settle(bodies bool) {
	if len(s.at) == 0 || bodies && s.last < s.proven {
		return
	}
	for _, index := range slices.Sorted(maps.Keys(s.at)) {
		if bodies && index < s.proven {
			continue
		}
		d := s.at[index]
		if what := s.classify(d, bodies); what != "" {
			s.report.addEvent(index, d.eventID, "%s", what)
		}
		delete(s.at, index)
		delete(s.events, d.body)
		delete(s.leaves, d.leaf)
	}
}

// classify says what was done to an event, and is empty where another finding does.
func (s *doubts) classify(d *doubt, bodies bool) string {
	tile := fmt.Sprintf("tile %d of level 0 was changed where the event's hash is", d.index/ledger.TileWidth)
	switch {
	case bodies && d.body == d.column:
		return tile
	case bodies && d.body != d.leaf && d.tile:
		return "its leaf_hash was changed, and " + tile
	case bodies:
		return datastorage.WrongHash(d.body, d.column, d.body)
	case d.home != nil && d.found != nil && *d.home > d.index:
		return fmt.Sprintf("it was swapped with event %d (%s)", *d.home, s.at[*d.home].eventID)
	case d.home != nil && d.found != nil:
		return ""
	case d.found != nil:
		return fmt.Sprintf("it was put in: the tree does not have it, and the event of this index stands at %d", *d.found)
	case d.home != nil:
		return fmt.Sprintf("the event of this index was deleted, and the one of index %d was put in its place", *d.home)
	case !d.tile && d.index >= s.proven:
		return "its bytes were changed, or its leaf_hash was: they contradict each other, and no checkpoint says which is right"
	}
	return datastorage.WrongHash(d.body, d.column, d.leaf)
}
