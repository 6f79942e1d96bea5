// Package ledger is the arithmetic of a transparency log: an RFC 6962 Merkle
// tree that grows at its right edge, its tiles, and its signed checkpoints. What
// is in it is stored elsewhere.
package ledger

import (
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// TileHeight is the number of tree levels in a tile, as C2SP tlog-tiles has it.
	TileHeight = 8
	// TileWidth is the number of hashes in a full tile.
	TileWidth = 1 << TileHeight
)

// Hash is the hash of a leaf or of a node: 32 bytes, SHA-256.
type Hash = tlog.Hash

// LeafHash is the hash of the leaf that holds data.
func LeafHash(data []byte) Hash { return tlog.RecordHash(data) }

// Tile is a full tile. Hashes is the number Index of the tiles of its level:
// those of the leaves are on level 0, and each hash of level n+1 is that of a
// full tile of level n.
type Tile struct {
	Level  int
	Index  int64
	Hashes []Hash
}

// Bytes are the hashes one after the other, 8 KiB, as tiles are served.
func (t *Tile) Bytes() []byte {
	data := make([]byte, 0, len(t.Hashes)*tlog.HashSize)
	for i := range t.Hashes {
		data = append(data, t.Hashes[i][:]...)
	}
	return data
}

// ParseTile reads a full tile as Bytes has it.
func ParseTile(level int, index int64, data []byte) (Tile, error) {
	t := Tile{Level: level, Index: index}
	if len(data) != TileWidth*tlog.HashSize {
		return t, fmt.Errorf("tile %d of level %d has %d bytes, not %d", index, level, len(data), TileWidth*tlog.HashSize)
	}
	for ; len(data) > 0; data = data[tlog.HashSize:] {
		t.Hashes = append(t.Hashes, Hash(data[:tlog.HashSize]))
	}
	return t, nil
}

// Tree is a tree's right edge: all that it takes to add leaves and to know the
// root. The zero Tree is empty. It is not safe for use by several goroutines.
type Tree struct {
	size int64
	// edge has the roots of the full subtrees that the leaves part into, one for
	// each bit of size that is set; what is at the other places means nothing.
	edge [64]Hash
	// open has the tiles that are not full yet, by level.
	open [][]Hash
	// edgeOnly is set where open was never known.
	edgeOnly bool
}

// Subtrees returns the full subtrees that so many leaves part into, the largest
// and first one first, as indexes of package tlog's HashReader.
func Subtrees(size int64) []int64 {
	var indexes []int64
	for bit := 62; bit >= 0; bit-- {
		if size>>bit&1 == 1 {
			indexes = append(indexes, tlog.StoredHashIndex(bit, size>>bit-1))
		}
	}
	return indexes
}

// FromEdge returns the tree of size leaves from the hashes of its Subtrees. Append
// returns no tiles of it.
func FromEdge(size int64, hashes []Hash) (*Tree, error) {
	t := &Tree{size: size, edgeOnly: true}
	if size < 0 || len(hashes) != bits.OnesCount64(uint64(size)) {
		return nil, fmt.Errorf("the edge of a tree of %d leaves does not have %d hashes", size, len(hashes))
	}
	for bit := 62; bit >= 0; bit-- {
		if size>>bit&1 == 1 {
			t.edge[bit], hashes = hashes[0], hashes[1:]
		}
	}
	return t, nil
}

// Restore returns the tree of size leaves. open has for each level the hashes of
// the tile that is not full yet, as many as size makes them.
func Restore(size int64, open [][]Hash) (*Tree, error) {
	t := &Tree{size: size}
	for level := 0; size>>(TileHeight*level) > 0; level++ {
		width := int(size >> (TileHeight * level) % TileWidth)
		if level >= len(open) || len(open[level]) != width {
			return nil, fmt.Errorf("the tile on level %d that is not full does not have %d hashes", level, width)
		}
		t.open = append(t.open, append([]Hash(nil), open[level]...))
		rest := open[level]
		for bit := TileHeight - 1; bit >= 0; bit-- {
			if width>>bit&1 == 1 {
				t.edge[TileHeight*level+bit] = root(rest[:1<<bit])
				rest = rest[1<<bit:]
			}
		}
	}
	return t, nil
}

// root is that of a full subtree over the hashes.
func root(hashes []Hash) Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(root(hashes[:half]), root(hashes[half:]))
}

// TileRoot is the hash that a full tile is known by one level above.
func TileRoot(hashes []Hash) Hash { return root(hashes) }

// Size is the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Clone returns a tree that can grow on its own.
func (t *Tree) Clone() *Tree {
	c := *t
	c.open = make([][]Hash, len(t.open))
	for level, hashes := range t.open {
		c.open[level] = slices.Clip(hashes) // Whoever appends copies.
	}
	return &c
}

// Append adds a leaf, and returns the tiles that it makes full.
func (t *Tree) Append(leaf Hash) (full []Tile) {
	h := leaf
	full = t.note(full, 0, h)
	for bit := 0; ; bit++ {
		if t.size>>bit&1 == 0 {
			t.edge[bit] = h
			break
		}
		h = tlog.NodeHash(t.edge[bit], h)
		if (bit+1)%TileHeight == 0 {
			full = t.note(full, (bit+1)/TileHeight, h)
		}
	}
	t.size++
	return full
}

func (t *Tree) note(full []Tile, level int, h Hash) []Tile {
	if t.edgeOnly {
		return nil
	}
	if level == len(t.open) {
		t.open = append(t.open, nil)
	}
	t.open[level] = append(t.open[level], h)
	if len(t.open[level]) < TileWidth {
		return full
	}
	tile := Tile{Level: level, Index: t.size >> (TileHeight * (level + 1)), Hashes: t.open[level]}
	t.open[level] = nil
	return append(full, tile)
}

// Root is the hash of the whole tree; that of an empty one is SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.size == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	var h Hash
	first := true
	for bit := 0; t.size>>bit > 0; bit++ {
		switch {
		case t.size>>bit&1 == 0:
		case first:
			h, first = t.edge[bit], false
		default:
			h = tlog.NodeHash(t.edge[bit], h)
		}
	}
	return h
}
