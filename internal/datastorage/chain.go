package datastorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/ledger"
)

const chainPath = "/api/v1/audit/verify-chain"

type chainAnswer struct {
	CorrelationID    string          `json:"correlation_id"`
	IsValid          bool            `json:"is_valid"`
	Message          string          `json:"message"`
	TotalEvents      int             `json:"total_events"`
	VerifiedEvents   int             `json:"verified_events"`
	TamperedEvents   []tamperedEvent `json:"tampered_events"`
	VerificationTime time.Time       `json:"verification_time"`
	Checkpoint       string          `json:"checkpoint"`
}

type tamperedEvent struct {
	EventID  string `json:"event_id"`
	LogIndex int64  `json:"log_index"`
	Message  string `json:"message"`
}

// verifyChain checks the events of a correlation ID against the newest checkpoint.
func (a *API) verifyChain(w http.ResponseWriter, r *http.Request) {
	body, free, p := a.readBody(r)
	if p != nil {
		p.write(w)
		return
	}
	defer free()
	id, ok := parseChain(body)
	if !ok {
		problem(invalidRequest, `the body must be a JSON object with one member, correlation_id, a string that is not empty: {"correlation_id":"incident-4711"}`).write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	indices, p := a.chain(r, id)
	if p != nil {
		p.write(w)
		return
	}
	// The head comes after the events, so that it has them all.
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	answer := chainAnswer{
		CorrelationID: id, TotalEvents: len(indices), TamperedEvents: []tamperedEvent{},
		VerificationTime: a.events.now().UTC().Truncate(time.Microsecond), Checkpoint: head.Checkpoint,
	}
	if p := a.logProblem(r, a.verifyRows(ctx, indices, head, &answer)); p != nil {
		p.write(w)
		return
	}
	answer.VerifiedEvents = answer.TotalEvents - len(answer.TamperedEvents)
	answer.IsValid = len(answer.TamperedEvents) == 0
	answer.Message = fmt.Sprintf("%d of %d events are in the log as they were recorded", answer.VerifiedEvents, answer.TotalEvents)
	writeJSON(w, http.StatusOK, answer)
}

func parseChain(body []byte) (string, bool) {
	var members map[string]*string
	if !utf8.Valid(body) || json.Unmarshal(body, &members) != nil || len(members) != 1 || members["correlation_id"] == nil {
		return "", false
	}
	id := *members["correlation_id"]
	return id, id != "" && !strings.ContainsRune(id, 0)
}

// chain returns the log indices of the events of a correlation ID.
func (a *API) chain(r *http.Request, id string) ([]int64, *Problem) {
	filter := Filter{Equal: map[string]string{"correlation_id": id}, Limit: maxLimit}
	var indices []int64
	for {
		page, p := a.query(r, filter)
		if p != nil {
			return nil, p
		}
		if page.Total >= MaxTotal {
			return nil, problem(invalidRequest, fmt.Sprintf("the correlation ID has %d events or more, too many to be verified at once; export the log, or run datastorage verify", MaxTotal))
		}
		for i := range page.Events {
			indices = append(indices, page.Events[i].LogIndex)
		}
		if page.Next == nil {
			return indices, nil
		}
		filter.After = page.Next
	}
}

// verifyRows checks each event by itself, and adds those that fail to the answer.
func (a *API) verifyRows(ctx context.Context, indices []int64, head Head, answer *chainAnswer) error {
	head.Verifier = a.events.key.Verifier() // whatever the database says
	tree, err := a.tree(ctx, head)
	if err != nil {
		return err
	}
	expired := expiredEvents{API: a, wanted: slices.Sorted(slices.Values(indices))}
	for some := range slices.Chunk(indices, rowsAtOnce) {
		leaves, err := inTree(tree, some, head.Size)
		if err != nil {
			return err
		}
		for _, index := range some {
			rows, err := a.events.Rows(ctx, index, index+1, 1)
			if err != nil {
				return err
			}
			t := tamperedEvent{LogIndex: index, Message: "it was deleted meanwhile"}
			if len(rows) > 0 {
				leaf, proven := leaves[index]
				t.EventID, t.Message = rows[0].ID(), wrongWith(&rows[0], leaf, proven)
				if t.Message == "" && rows[0].Body == nil {
					if t.Message, err = expired.wrong(ctx, &rows[0]); err != nil {
						return err
					}
				}
			}
			if t.Message != "" {
				answer.TamperedEvents = append(answer.TamperedEvents, t)
			}
		}
	}
	return nil
}

// inTree returns the leaves, by their indices, that lead to the checkpoint's root.
func inTree(tree tlog.HashReader, indices []int64, size int64) (map[int64]ledger.Hash, error) {
	leaves := map[int64]ledger.Hash{}
	indices = slices.DeleteFunc(slices.Clone(indices), func(index int64) bool { return index < 0 || index >= size })
	stored := make([]int64, len(indices))
	for i, index := range indices {
		stored[i] = tlog.StoredHashIndex(0, index)
	}
	hashes, err := tree.ReadHashes(stored)
	if err != nil && !errors.Is(err, ErrTampered) {
		return nil, err
	}
	for i := range hashes {
		leaves[indices[i]] = hashes[i]
	}
	if err == nil || len(indices) == 1 {
		return leaves, nil
	}
	for _, index := range indices { // so that each event is told by its own path
		one, err := inTree(tree, []int64{index}, size)
		if err != nil {
			return nil, err
		}
		maps.Copy(leaves, one)
	}
	return leaves, nil
}

// wrongWith says what is wrong with an event whose leaf is proven or not, or nothing.
func wrongWith(row *Row, leaf ledger.Hash, proven bool) string {
	if !proven {
		return "it cannot be proven to be in the log: the hashes that are stored do not lead to the root of the checkpoint"
	}
	body, column := row.Hashes()
	if wrong := WrongHash(body, column, leaf); wrong != "" {
		return wrong
	}
	return row.WrongColumns()
}

// expiredEvents knows which events have expired.
type expiredEvents struct {
	*API
	wanted []int64 // log indices in ascending order; no others are known
	size   int64   // of the log that says so
	said   []Expiry
}

// wrong says what is wrong with an event that has no bytes, or nothing.
func (x *expiredEvents) wrong(ctx context.Context, row *Row) (string, error) {
	of := func() int { return slices.IndexFunc(x.said, func(e Expiry) bool { return e.Covers(row.LogIndex) }) }
	at := of()
	if at < 0 {
		// It may have expired a moment ago.
		head, err := x.events.Head(ctx)
		if err != nil {
			return "", err
		}
		if head.Size != x.size {
			if err := x.read(ctx, head); err != nil {
				return "", err
			}
		}
		at = of()
	}
	if at < 0 {
		return "its bytes were deleted, or its recorded_at was changed: no event says that it has expired", nil
	}
	return x.said[at].WrongRemains(row.LogIndex, row.Line()), nil
}

// concerns reports whether one of the events is wanted.
func (x *expiredEvents) concerns(e *Expiry) bool {
	return slices.ContainsFunc(e.LogIndices, func(r [2]int64) bool {
		at, _ := slices.BinarySearch(x.wanted, r[0])
		return at < len(x.wanted) && x.wanted[at] <= r[1]
	})
}

// read reads what a log says of what has expired, as far as it has not been read
// and is what was recorded.
func (x *expiredEvents) read(ctx context.Context, head Head) error {
	var indices []int64
	for e, err := range Expiries(ctx, x.events) {
		if err != nil {
			return err
		}
		if e.LogIndex >= x.size && e.LogIndex < head.Size && x.concerns(&e) {
			indices = append(indices, e.LogIndex)
		}
	}
	x.size = head.Size
	if len(indices) == 0 {
		return nil
	}
	head.Verifier = x.events.key.Verifier()
	tree, err := x.tree(ctx, head)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(indices, rowsAtOnce) {
		leaves, err := inTree(tree, some, head.Size)
		if err != nil {
			return err
		}
		for _, index := range some {
			rows, err := x.events.Rows(ctx, index, index+1, 1)
			if err != nil {
				return err
			}
			leaf, proven := leaves[index]
			if len(rows) == 0 || wrongWith(&rows[0], leaf, proven) != "" {
				continue
			}
			if e, ok := ParseExpiry(rows[0].Body); ok {
				e.LogIndex = index
				x.said = append(x.said, e)
			}
		}
	}
	return nil
}
