package ledger

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// stored is a log as the library keeps it: all hashes by their index.
type stored []tlog.Hash

func (s *stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, i := range indexes {
		hashes = append(hashes, (*s)[i])
	}
	return hashes, nil
}

func (s *stored) add(t interface{ Fatal(...any) }, n int64, leaf Hash) {
	hashes, err := tlog.StoredHashesForRecordHash(n, leaf, s)
	if err != nil {
		t.Fatal(err)
	}
	*s = append(*s, hashes...)
}

func leaf(n int64) Hash { return LeafHash(fmt.Append(nil, n)) }

func TestTheTreeAndItsTilesAreThoseOfTheLibrary(t *testing.T) {
	var want stored
	tree := &Tree{}
	const leaves = 2*TileWidth*TileWidth + 3*TileWidth + 5
	for n := range int64(leaves) {
		if n < 600 || n%997 == 0 || n > leaves-300 {
			root, err := tlog.TreeHash(n, &want)
			if err != nil || root != tree.Root() || tree.Size() != n {
				t.Fatalf("size %d of %d: root is %s, %v, want %s", tree.Size(), n, tree.Root(), err, root)
			}
		}
		want.add(t, n, leaf(n))
		for _, tile := range tree.Append(leaf(n)) {
			data, err := tlog.ReadTileData(tlog.Tile{H: TileHeight, L: tile.Level, N: tile.Index, W: TileWidth}, &want)
			if err != nil {
				t.Fatal(err)
			}
			if string(data) != string(tile.Bytes()) {
				t.Fatalf("tile %d of level %d differs", tile.Index, tile.Level)
			}
		}
	}
}

func TestATreeGrowsOnFromWhatIsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(TileWidth*TileWidth-3, TileWidth*TileWidth+600)).Draw(t, "size")
		whole := &Tree{}
		for n := range size {
			whole.Append(leaf(n))
		}
		grown, err := Restore(size, whole.open)
		if err != nil {
			t.Fatal(err)
		}
		clone := grown.Clone()
		for n := size; n < size+300; n++ {
			a, b := whole.Append(leaf(n)), grown.Append(leaf(n))
			if len(a) != len(b) || whole.Root() != grown.Root() {
				t.Fatalf("after leaf %d: %d tiles and %d, roots %s and %s", n, len(a), len(b), whole.Root(), grown.Root())
			}
		}
		// A clone does not notice how the other grew.
		for n := size; n < size+300; n++ {
			clone.Append(leaf(n))
		}
		if clone.Root() != whole.Root() {
			t.Fatal("a clone has another root")
		}
	})
}

func TestATreeIsNotRestoredFromTheWrongHashes(t *testing.T) {
	for _, open := range [][][]Hash{nil, {{}}, {make([]Hash, 4)}, {make([]Hash, 256)}} {
		if _, err := Restore(5, open); err == nil {
			t.Errorf("restored 5 leaves from %d levels", len(open))
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	tree, h := &Tree{}, leaf(1)
	for b.Loop() {
		tree.Append(h)
	}
}

func TestALogIsShownToBeThatOfAnEarlierCheckpointOrNot(t *testing.T) {
	var log, other stored
	roots, others := []Hash{{}}, []Hash{{}}
	const size = 20
	for n := range int64(size) {
		log.add(t, n, leaf(n))
		other.add(t, n, leaf(n+max(0, n-9))) // the first ten are the same
		root, err := tlog.TreeHash(n+1, &log)
		if err != nil {
			t.Fatal(err)
		}
		forked, err := tlog.TreeHash(n+1, &other)
		if err != nil {
			t.Fatal(err)
		}
		roots, others = append(roots, root), append(others, forked)
	}
	for to := int64(1); to <= size; to++ {
		for from := int64(1); from <= to; from++ {
			older, newer := Checkpoint{Size: from, Root: roots[from]}, Checkpoint{Size: to, Root: roots[to]}
			proof, err := tlog.ProveTree(to, from, &log)
			if err != nil {
				t.Fatal(err)
			}
			if err := newer.Extends(older, proof); err != nil {
				t.Errorf("%d to %d: %v", from, to, err)
			}
			for name, against := range map[string]error{
				"forked":   Checkpoint{Size: to, Root: others[to]}.Extends(older, proof),
				"replaced": newer.Extends(Checkpoint{Size: from, Root: others[from]}, proof),
				"shorter":  older.Extends(newer, proof),
				"unproven": newer.Extends(older, nil),
			} {
				same := name == "forked" && to <= 10 || name == "replaced" && from <= 10 || from == to && (name == "shorter" || name == "unproven")
				if same != (against == nil) {
					t.Errorf("%d to %d, %s: %v", from, to, name, against)
				}
			}
		}
	}
	if err := (Checkpoint{Size: 3, Root: roots[3]}).Extends(Checkpoint{Root: (&Tree{}).Root()}, nil); err != nil {
		t.Errorf("an empty log has to be proven: %v", err)
	}
}

func TestATreeGoesOnFromTheHashesOfItsSubtrees(t *testing.T) {
	for _, from := range []int64{0, 1, 2, 3, 255, 256, 300} {
		var whole Tree
		var hashes stored
		for n := range from {
			leaf := LeafHash([]byte{byte(n), byte(n >> 8)})
			added, err := tlog.StoredHashesForRecordHash(n, leaf, &hashes)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, added...)
			whole.Append(leaf)
		}
		edge, _ := hashes.ReadHashes(Subtrees(from))
		tree, err := FromEdge(from, edge)
		if err != nil {
			t.Fatal(err)
		}
		for n := range int64(600) {
			if tree.Root() != whole.Root() || tree.Size() != whole.Size() {
				t.Fatalf("from %d: another root after %d leaves", from, n)
			}
			leaf := LeafHash([]byte{byte(n)})
			whole.Append(leaf)
			if full := tree.Append(leaf); full != nil {
				t.Fatalf("from %d: a tile of leaves that are not known", from)
			}
		}
		if _, err := FromEdge(from, append(edge, Hash{})); err == nil {
			t.Errorf("from %d: took one hash too many", from)
		}
	}
	if _, err := FromEdge(-1, make([]Hash, 64)); err == nil {
		t.Error("took a negative size")
	}
}
