package datastorage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/ledger"
)

const (
	exportPath = "/api/v1/audit/export"
	// maxScans is how many requests that read much of the log are served at once.
	maxScans = 4
	// lineTimeout is how long a client may take for a line of an export.
	lineTimeout = time.Minute
)

// Manifest is the first line of an export. The events from From up to but without
// To follow, and no more. To is the size of the tree that Checkpoint is of, and Left
// has the hashes of the subtrees into which the events before From part.
type Manifest struct {
	From       int64         `json:"from"`
	To         int64         `json:"to"`
	Left       []ledger.Hash `json:"left"`
	Checkpoint string        `json:"checkpoint"`
	Verifier   string        `json:"verifier"`
}

// scan lets a few requests through at a time.
func (a *API) scan(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case a.scans <- struct{}{}:
			defer func() { <-a.scans }()
			next(w, r)
		default:
			retryable(tooManyRequests, fmt.Sprintf("%d exports and verifications are under way; send this one again later", maxScans)).write(w)
		}
	}
}

// getExport streams events as lines of JSON, after one that vouches for them. A
// client that gets fewer than that line says asks for the rest.
func (a *API) getExport(w http.ResponseWriter, r *http.Request) {
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	m := &Manifest{To: head.Size, Checkpoint: head.Checkpoint, Verifier: head.Verifier}
	var detail string
	if m.From, detail = parseFrom(r.URL.RawQuery, head.Size); detail != "" {
		problem(invalidRequest, detail).write(w)
		return
	}
	var err error
	if m.Left, err = a.left(r.Context(), m.From, head); err != nil {
		a.logProblem(r, err).write(w)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	// A client that has stopped reading would hold up the server's end.
	stop := context.AfterFunc(a.drained, func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Now()) })
	defer stop()
	if err := a.stream(r.Context(), w, m); err != nil {
		if r.Context().Err() == nil {
			requestLog(r).Error(err, "An export was cut off", "from", m.From, "to", m.To)
		}
		panic(http.ErrAbortHandler) // so that the client is told that there is more
	}
}

// parseFrom reads the query of a request for an export, or returns the sentence
// that says what is wrong with it.
func parseFrom(rawQuery string, size int64) (int64, string) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return 0, "the query is malformed: " + err.Error()
	}
	for name := range query {
		if name != "from" {
			return 0, fmt.Sprintf("parameter %q is not known", name)
		}
	}
	if !query.Has("from") {
		return 0, ""
	}
	from, err := strconv.ParseInt(query.Get("from"), 10, 64)
	if err != nil || from < 0 || from > size || len(query["from"]) > 1 {
		return 0, fmt.Sprintf("from must be a number of events from 0 to %d, which is how many there are", size)
	}
	return from, ""
}

// left returns the hashes of the subtrees before an index.
func (a *API) left(ctx context.Context, from int64, head Head) ([]ledger.Hash, error) {
	if from == 0 {
		return []ledger.Hash{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	tree, err := a.tree(ctx, head)
	if err != nil {
		return nil, err
	}
	return tree.ReadHashes(ledger.Subtrees(from))
}

// tree returns what reads hashes that lead to the root of the head's checkpoint. Its
// errors are ErrTampered, or those of reading.
func (a *API) tree(ctx context.Context, head Head) (tlog.HashReader, error) {
	c, err := ledger.Verify(head.Checkpoint, head.Verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	stored := &tiles{ctx: ctx, hashes: a.events}
	reader := tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, stored)
	return tlog.HashReaderFunc(func(indexes []int64) ([]ledger.Hash, error) {
		stored.failed = nil
		hashes, err := reader.ReadHashes(indexes)
		if err != nil && stored.failed == nil {
			err = fmt.Errorf("%w: %w", ErrTampered, err)
		}
		return hashes, err
	}), nil
}

// stream writes the lines of an export. What is in the log is exported as it is,
// also where it is not as it should be: to find that out is for whoever verifies it.
func (a *API) stream(ctx context.Context, w http.ResponseWriter, m *Manifest) error {
	out := bufio.NewWriterSize(w, 64<<10)
	first, err := json.Marshal(map[string]*Manifest{"manifest": m})
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if _, err := out.Write(append(first, '\n')); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	var extended time.Time
	gone := false
	for row, err := range EachRow(ctx, a.events, m.From, m.To) {
		if err != nil {
			return err
		}
		if now := time.Now(); now.Sub(extended) > time.Second {
			extended = now
			// Not all writers have a deadline; one for the whole answer would not do.
			_ = http.NewResponseController(w).SetWriteDeadline(now.Add(storeTimeout + lineTimeout))
		}
		// It comes after the deadline, which else could undo that of the end.
		if a.draining() {
			return errors.New("the server is shutting down")
		}
		gone = gone || row.Body == nil
		if _, err := out.Write(append(row.Line(), '\n')); err != nil {
			return fmt.Errorf("write event: %w", err)
		}
	}
	if err := out.Flush(); err != nil || !gone {
		return err
	}
	return a.expiredSince(ctx, m)
}

// expiredSince returns an error where events may have expired after an export began,
// so that what says so is missing from it.
func (a *API) expiredSince(ctx context.Context, m *Manifest) error {
	for e, err := range Expiries(ctx, a.events) {
		if err != nil {
			return err
		}
		exported := func(r [2]int64) bool { return r[0] < m.To && r[1] >= m.From }
		if e.LogIndex >= m.To && slices.ContainsFunc(e.LogIndices, exported) {
			return fmt.Errorf("events expired meanwhile, as event %d says, which belongs to the rest", e.LogIndex)
		}
	}
	return nil
}
