package datastorage_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/ledger"
)

type inclusion struct {
	LogIndex   int64       `json:"log_index"`
	LeafHash   string      `json:"leaf_hash"`
	Proof      []tlog.Hash `json:"proof"`
	Checkpoint string      `json:"checkpoint"`
}

type consistency struct {
	From       int64       `json:"from"`
	To         int64       `json:"to"`
	Proof      []tlog.Hash `json:"proof"`
	Checkpoint string      `json:"checkpoint"`
}

// grow appends events until there are so many, and returns a checkpoint that the
// log has given.
func grow(c *client, from, to int) string {
	c.t.Helper()
	var checkpoint string
	for n := from; n < to; {
		var events []string
		for ; n < to && len(events) < 1000; n++ {
			events = append(events, event(n))
		}
		var answer struct {
			Checkpoint string `json:"checkpoint"`
		}
		c.post(batchPath, batch(events...)).want(c.t, 201).decode(c.t, &answer)
		checkpoint = answer.Checkpoint
	}
	return checkpoint
}

func (c *client) verify(checkpoint string) ledger.Checkpoint {
	c.t.Helper()
	got, err := ledger.Verify(checkpoint, strings.TrimSpace(c.get("/api/v1/audit/log/key").want(c.t, 200).body))
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func TestWhoeverHasThePublicKeyCanCheckThatAnEventIsInTheLog(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		const size = 2*ledger.TileWidth + 3
		grow(c, 0, size)
		for _, n := range []int{0, 1, 255, 256, 400, 511, 512, size - 1} {
			var got inclusion
			c.get("/api/v1/audit/log/proof/inclusion?event_id="+id(n)).want(t, 200).decode(t, &got)
			checkpoint := c.verify(got.Checkpoint)
			body := []byte(c.body(id(n)))
			if got.LogIndex != int64(n) || checkpoint.Size != size || got.LeafHash != hex.EncodeToString(hashOf(body)) {
				t.Errorf("event %d: got %+v", n, got)
			}
			if err := tlog.CheckRecord(got.Proof, size, checkpoint.Root, int64(n), ledger.LeafHash(body)); err != nil {
				t.Errorf("event %d: %v", n, err)
			}
		}
	})
}

func hashOf(body []byte) []byte { h := ledger.LeafHash(body); return h[:] }

// body returns the exact bytes of a stored event.
func (c *client) body(id string) string {
	c.t.Helper()
	text, _, _ := strings.Cut(c.get(eventsPath+"/"+id).want(c.t, 200).body, `,"leaf_hash":`)
	return text + "}"
}

func TestEachCheckpointIsConsistentWithEachLaterOne(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		if first := c.verify(c.get("/api/v1/audit/log/checkpoint").want(t, 200).body); first.Size != 0 {
			t.Errorf("an empty log has %d events", first.Size)
		}
		sizes := []int{1, 2, 3, 255, 256, 257, 600}
		checkpoints := []ledger.Checkpoint{}
		last := 0
		for _, size := range sizes {
			checkpoints = append(checkpoints, c.verify(grow(c, last, size)))
			last = size
		}
		for i, from := range checkpoints {
			for _, to := range checkpoints[i:] {
				var got consistency
				c.get(fmt.Sprintf("/api/v1/audit/log/proof/consistency?from=%d&to=%d", from.Size, to.Size)).want(t, 200).decode(t, &got)
				if err := tlog.CheckTree(got.Proof, to.Size, to.Root, from.Size, from.Root); err != nil {
					t.Errorf("from %d to %d: %v", from.Size, to.Size, err)
				}
			}
		}
		var got consistency
		c.get("/api/v1/audit/log/proof/consistency?from=1").want(t, 200).decode(t, &got)
		if got.To != 600 || got.Checkpoint != c.get("/api/v1/audit/log/checkpoint").body {
			t.Errorf("without to: %+v", got)
		}
	})
}

func TestTilesAreThoseOfTheSpecification(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		const size = 3*ledger.TileWidth + 5
		checkpoint := c.verify(grow(c, 0, size))
		// A client of the specification needs nothing but tiles and a checkpoint.
		reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: checkpoint.Root}, tileClient{c})
		for n := range int64(size) {
			proof, err := tlog.ProveRecord(size, n, reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, size, checkpoint.Root, n, ledger.LeafHash([]byte(c.bodyOf(int(n))))); n%97 == 0 && err != nil {
				t.Errorf("event %d: %v", n, err)
			}
		}
	})
}

func (c *client) bodyOf(n int) string {
	if n%97 != 0 {
		return ""
	}
	return c.body(id(n))
}

type tileClient struct{ c *client }

func (t tileClient) Height() int                     { return 8 }
func (t tileClient) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tileClient) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		path := strings.TrimPrefix(tile.Path(), "tile/8/")
		resp, err := http.Get(t.c.base + "/api/v1/audit/log/tile/" + path)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %d %s %w", path, resp.StatusCode, body, err)
		}
		data = append(data, body)
	}
	return data, nil
}

func TestProofsThatCannotBeGivenSayWhy(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	grow(c, 0, 3)
	for path, want := range map[string]string{
		"/proof/inclusion":                   "400 event_id must be a UUID",
		"/proof/inclusion?event_id=x":        "400 event_id must be a UUID",
		"/proof/inclusion?event_id=" + id(9): "404 no event has the ID",
		"/proof/consistency":                 "400 from must be a number",
		"/proof/consistency?from=0":          "400 from must be a number",
		"/proof/consistency?from=2&to=1":     "400 from must be a number",
		"/proof/consistency?from=4":          "400 the log is shorter: from is 4 and to is 3",
		"/proof/consistency?from=1&to=4":     "404 the log has 3 events and not yet 4",
		"/proof/consistency?from=1&to=-1":    "404 the log has 3 events and not yet",
		"/tile/0/000":                        "404 the log has 3 events, too few",
		"/tile/0/000.p/4":                    "404 the log has 3 events, too few",
		"/tile/9/000.p/4":                    "404 the log has 3 events, too few",
		"/tile/0/001.p/1":                    "404 the log has 3 events, too few",
		"/tile/nonsense":                     "404 a tile's path is its level",
		"/tile/data/000.p/1":                 "404 a tile's path is its level",
	} {
		a := c.get("/api/v1/audit/log" + path)
		if got := fmt.Sprint(a.code, " ", a.body); !strings.HasPrefix(got, want[:3]) || !strings.Contains(a.body, want[4:]) {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}
