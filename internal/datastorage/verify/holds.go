package verify

import (
	"bytes"
	"context"
	"math"
	"slices"

	"kubernaut.ai/notification/internal/datastorage"
)

// holds are the legal holds that the log tells of, by correlation ID and in its order.
type holds map[string][]hold

type hold struct {
	datastorage.Hold
	placed, released int64 // log indices
}

// note takes what the event at an index says, where it is about a hold.
func (h holds) note(index int64, body []byte) {
	if !bytes.Contains(body, []byte(`"datastorage.hold.`)) {
		return
	}
	said, placed, ok := datastorage.ParseHold(body)
	if !ok {
		return
	}
	if of := h[said.CorrelationID]; placed {
		h[said.CorrelationID] = append(of, hold{said, index, math.MaxInt64})
	} else if len(of) > 0 {
		of[len(of)-1].released = index
	}
}

// at returns the hold that a correlation ID was under when an event was recorded.
func (h holds) at(correlationID string, index int64) *hold {
	of := h[correlationID]
	i := slices.IndexFunc(of, func(h hold) bool { return h.placed < index && index < h.released })
	if i < 0 {
		return nil
	}
	return &of[i]
}

// held tells of an event that has expired, as another one says, although it was held.
func (x *expired) held(index int64, eventID, correlationID string, said *datastorage.Expiry) {
	if h := x.holds.at(correlationID, said.LogIndex); h != nil {
		x.report.addEvent(index, eventID, "it expired under the legal hold that event %d placed, as event %d says: the hold was taken out of the database", h.placed, said.LogIndex)
	}
}

// checkHolds looks for events that expired although they were held, and compares
// the holds that the database has, which were read after the log's size was, with
// those that are in force.
func (s *storedLog) checkHolds(ctx context.Context, have []datastorage.Hold) error {
	for id := range s.expired.holds {
		for e, err := range datastorage.Matching(ctx, s.log, map[string]string{"correlation_id": id}) {
			if err != nil {
				return err
			}
			if said := s.expired.of(e.LogIndex); said != nil {
				s.expired.held(e.LogIndex, e.Columns.EventID.String(), id, said)
			}
		}
		h := s.expired.holds.at(id, s.size)
		if h == nil || slices.ContainsFunc(have, func(had datastorage.Hold) bool { return had == h.Hold }) {
			continue
		}
		if changed, err := s.heldSince(ctx, id); err != nil {
			return err
		} else if !changed {
			s.add(h.placed, "the legal hold on %q was changed, or taken out of the database: event %d placed it, and none has released it", id, h.placed)
		}
	}
	for _, h := range have {
		if s.expired.holds.at(h.CorrelationID, s.size) != nil {
			continue
		}
		if changed, err := s.heldSince(ctx, h.CorrelationID); err != nil {
			return err
		} else if !changed {
			s.add(s.size, "the legal hold on %q was put into the database: no event has placed it", h.CorrelationID)
		}
	}
	return nil
}

// heldSince reports whether a hold was placed or released after what is verified.
func (s *storedLog) heldSince(ctx context.Context, correlationID string) (bool, error) {
	for e, err := range datastorage.Matching(ctx, s.log, map[string]string{"correlation_id": correlationID}) {
		if err != nil {
			return false, err
		}
		if _, _, ok := datastorage.ParseHold(e.Body); ok && e.LogIndex >= s.size {
			return true, nil
		}
	}
	return false, nil
}
