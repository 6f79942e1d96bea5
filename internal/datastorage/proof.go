package datastorage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/ledger"
)

const logPath = "/api/v1/audit/log"

// proof is the answer with an audit path, from the leaves to the root.
type proof struct {
	EventID  string `json:"event_id,omitempty"`
	LogIndex *int64 `json:"log_index,omitempty"`
	LeafHash string `json:"leaf_hash,omitempty"`
	From     *int64 `json:"from,omitempty"`
	To       *int64 `json:"to,omitempty"`
	// Proof has hashes in base64. A type of its own would say no more.
	Proof      []ledger.Hash `json:"proof"`
	Checkpoint string        `json:"checkpoint"`
}

func (a *API) getCheckpoint(w http.ResponseWriter, r *http.Request) {
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	writeText(w, head.Checkpoint)
}

func (a *API) getKey(w http.ResponseWriter, r *http.Request) {
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	writeText(w, head.Verifier+"\n")
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text))
}

func (a *API) head(r *http.Request) (Head, *Problem) {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	head, err := a.events.Head(ctx)
	return head, a.logProblem(r, err)
}

// getInclusionProof proves that an event is in the log of the newest checkpoint.
func (a *API) getInclusionProof(w http.ResponseWriter, r *http.Request) {
	e, p := a.event(r, r.URL.Query().Get("event_id"))
	if p != nil {
		p.write(w)
		return
	}
	a.prove(w, r, -1, proof{EventID: e.Columns.EventID.String(), LogIndex: &e.LogIndex, LeafHash: hex.EncodeToString(e.LeafHash[:])},
		func(size int64, hashes tlog.HashReader) ([]ledger.Hash, error) {
			return tlog.ProveRecord(size, e.LogIndex, hashes)
		})
}

// getConsistencyProof proves that a log is what an earlier one was, and more.
func (a *API) getConsistencyProof(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	from, err := strconv.ParseInt(query.Get("from"), 10, 64)
	to := int64(-1)
	if query.Has("to") && err == nil {
		if to, err = strconv.ParseInt(query.Get("to"), 10, 64); to < 0 {
			to = math.MaxInt64
		}
	}
	if err != nil || from < 1 || to >= 0 && from > to {
		problem(invalidRequest, "from must be a number of events from 1 on, and to, where it is there, one that is not less").write(w)
		return
	}
	a.prove(w, r, to, proof{From: &from}, func(size int64, hashes tlog.HashReader) ([]ledger.Hash, error) {
		if from > size {
			return nil, fmt.Errorf("%w: from is %d and to is %d", errBeyond, from, size)
		}
		return tlog.ProveTree(size, from, hashes)
	})
}

// errBeyond is of a proof about more events than there are.
var errBeyond = errors.New("the log is shorter")

// prove answers with a proof for a log of so many events, or for all there are
// where size is negative.
func (a *API) prove(w http.ResponseWriter, r *http.Request, size int64, answer proof, prove func(int64, tlog.HashReader) ([]ledger.Hash, error)) {
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	if size < 0 {
		size = head.Size
	}
	if size > head.Size {
		problem(notFound, fmt.Sprintf("the log has %d events and not yet %d", head.Size, size)).write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	answer.Checkpoint = head.Checkpoint
	if answer.From != nil {
		answer.To = &size
	}
	tree, err := a.tree(ctx, head)
	if err == nil {
		answer.Proof, err = prove(size, tree)
	}
	if errors.Is(err, errBeyond) {
		problem(invalidRequest, err.Error()).write(w)
		return
	}
	if p := a.logProblem(r, err); p != nil {
		p.write(w)
		return
	}
	if answer.Proof == nil {
		answer.Proof = []ledger.Hash{}
	}
	writeJSON(w, http.StatusOK, answer)
}

// getTile answers with a tile as C2SP tlog-tiles names it. What is full never
// changes.
func (a *API) getTile(w http.ResponseWriter, r *http.Request) {
	tile, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", ledger.TileHeight, r.PathValue("tile")))
	if err != nil || tile.L < 0 {
		problem(notFound, "a tile's path is its level, its index in groups of three digits, and .p/ with its width where it is not full: 0/x001/234 or 1/000.p/7").write(w)
		return
	}
	head, p := a.head(r)
	if p != nil {
		p.write(w)
		return
	}
	last := tile.N<<ledger.TileHeight + int64(tile.W)
	if tile.L > 7 || last > head.Size>>(ledger.TileHeight*tile.L) {
		problem(notFound, fmt.Sprintf("the log has %d events, too few for this tile", head.Size)).write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	data, err := (&tiles{ctx: ctx, hashes: a.events}).read(tile)
	if p := a.logProblem(r, err); p != nil {
		p.write(w)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "max-age=31536000, immutable")
	_, _ = w.Write(data)
}

// logProblem says what an error of reading the log means to a client.
func (a *API) logProblem(r *http.Request, err error) *Problem {
	if err == nil {
		return nil
	}
	if r.Context().Err() == nil {
		requestLog(r).Error(err, "Reading the log failed")
	}
	if errors.Is(err, ErrTampered) {
		return problem(logTampered, err.Error())
	}
	return retryable(unavailable, "the database does not answer at present")
}

// tiles makes tiles, full or not, of what is stored.
type tiles struct {
	ctx    context.Context //nolint:containedctx // tlog.TileReader has no room for one
	hashes Hashes
	failed error // of reading, at last
}

// Height is as tlog.TileReader says.
func (t *tiles) Height() int { return ledger.TileHeight }

// SaveTiles is as tlog.TileReader says. They are saved when they are made.
func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles is as tlog.TileReader says.
func (t *tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(list))
	for i, tile := range list {
		var err error
		if data[i], err = t.read(tile); err != nil {
			t.failed = err
			return nil, err
		}
	}
	return data, nil
}

func (t *tiles) read(tile tlog.Tile) ([]byte, error) {
	if tile.W == ledger.TileWidth {
		rows, err := readHashes(t.ctx, t.hashes, tile.L, tile.N, tile.N+1)
		if err != nil {
			return nil, err
		}
		return rows[0].Data, nil
	}
	from := tile.N << ledger.TileHeight
	hashes, err := readRoots(t.ctx, t.hashes, tile.L, from, from+int64(tile.W))
	if err != nil {
		return nil, err
	}
	part := ledger.Tile{Hashes: hashes}
	return part.Bytes(), nil
}
