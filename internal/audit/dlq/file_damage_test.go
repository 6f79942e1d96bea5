package dlq

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

// image is what a killed process has left: events 0 to 149 in the database,
// 150 to 299 in its log, some of each rejected, and the transactions' ends.
type image struct {
	db, wal []byte
	ends    map[int]int // the log's size when an event was put
}

func mixed(n int) audit.Event { return sized(n, n%7*1500) }

func makeImage(t *testing.T) image {
	t.Helper()
	dir := t.TempDir()
	f := open(t, dir)
	for n := range 150 {
		put(t, f, []audit.Event{mixed(n)}, 1)
	}
	settle(t, f, nil, []audit.Rejection{{Event: mixed(3), Status: 400, Reason: "bad"}, {Event: mixed(4), Status: 400, Reason: "bad"}})
	f.Close()
	f = open(t, dir)
	m := image{ends: map[int]int{}}
	for n := 150; n < 300; n++ {
		put(t, f, []audit.Event{mixed(n)}, 1)
		if n == 200 {
			settle(t, f, nil, []audit.Rejection{{Event: mixed(5), Status: 400, Reason: "bad"}, {Event: mixed(180), Status: 400, Reason: "bad"}})
		}
		info, err := os.Stat(filepath.Join(dir, walName))
		if err != nil {
			t.Fatal(err)
		}
		m.ends[n] = int(info.Size())
	}
	m.db, m.wal = read(t, filepath.Join(dir, dbName)), read(t, filepath.Join(dir, walName))
	return m
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (m image) write(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string][]byte{dbName: m.db, walName: m.wal} {
		if text == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// drain returns the events that a queue gives, which it then has no more.
func drain(t *testing.T, f *File) map[uuid.UUID]bool {
	t.Helper()
	got := map[uuid.UUID]bool{}
	for range 100 {
		list := next(t, f, 1000)
		if len(list) == 0 {
			return got
		}
		for _, e := range list {
			if got[e.EventID] {
				t.Errorf("event %s came twice", e.EventID)
			}
			got[e.EventID] = true
		}
		settle(t, f, ids(list), nil)
	}
	t.Fatal("there is no end of events")
	return nil
}

// on reports whether a part of event n is in one of the pages.
func on(n int, pages []byte) bool {
	payload := mixed(n).EventID.String()
	return bytes.Contains(pages, []byte(payload)) || n%7 >= 3 && bytes.Contains(pages, bytes.Repeat([]byte("x"), 100))
}

func TestWhateverIsDamagedAllElseIsThere(t *testing.T) {
	m := makeImage(t)
	const frame = frameHeader + pageSize
	pageAt := func(at int) []byte { return m.db[at/pageSize*pageSize : min(len(m.db), (at/pageSize+1)*pageSize)] }
	frameAt := func(at int) []byte {
		start := walHeader + (max(at, walHeader)-walHeader)/frame*frame
		return m.wal[start:min(len(m.wal), start+frame)]
	}
	kinds := []struct {
		name string
		runs int
		// damage changes a copy and says which events may be gone with it.
		damage func(rng *rand.Rand, c *image) (gone func(n int) bool, what string)
	}{
		{"database cut", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.db))
			c.db = c.db[:at]
			cut := m.db[at/pageSize*pageSize:]
			return func(n int) bool { return on(n, cut) }, fmt.Sprint(at)
		}},
		{"database bit flipped", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.db))
			for at >= 60 && at < 64 { // The version: a program that is too old must not touch what is newer.
				at = rng.IntN(len(m.db))
			}
			bit := byte(1) << rng.IntN(8)
			c.db[at] ^= bit
			return func(n int) bool { return on(n, pageAt(at)) }, fmt.Sprint(at, " ", bit)
		}},
		{"database page overwritten", 4, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.db)/pageSize) * pageSize
			copy(c.db[at:at+pageSize], bytes.Repeat([]byte("garbage\x00"), pageSize))
			return func(n int) bool { return on(n, pageAt(at)) }, fmt.Sprint(at)
		}},
		{"garbage behind the database", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = append(c.db, bytes.Repeat([]byte("garbage\x00"), 700)...)
			return func(int) bool { return false }, ""
		}},
		{"database replaced by garbage", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = []byte("this is no database")
			return func(n int) bool { return n < 150 }, ""
		}},
		{"database gone", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = nil
			return func(n int) bool { return n < 150 }, ""
		}},
		{"log cut", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.wal))
			c.wal = c.wal[:at]
			return func(n int) bool { return m.ends[n] > at }, fmt.Sprint(at)
		}},
		{"log bit flipped", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.wal))
			bit := byte(1) << rng.IntN(8)
			c.wal[at] ^= bit
			return func(n int) bool { return on(n, frameAt(at)) }, fmt.Sprint(at, " ", bit)
		}},
		{"log with a half-written end", 4, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			c.wal = append(c.wal, frameAt(rng.IntN(len(m.wal)))[:rng.IntN(frame)]...)
			return func(int) bool { return false }, ""
		}},
		{"log replaced by garbage", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.wal = []byte(strings.Repeat("garbage", 1000))
			return func(n int) bool { return n >= 150 }, ""
		}},
	}
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for range kind.runs {
				c := image{db: slices.Clone(m.db), wal: slices.Clone(m.wal)}
				gone, what := kind.damage(rng, &c)
				dir := c.write(t)
				f, err := Open(dir, roomy, logr.Discard())
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				got := drain(t, f)
				depth := settle(t, f, nil, nil)
				lost := 0
				for n := range 300 {
					if id := mixed(n).EventID; got[id] {
						delete(got, id)
					} else if lost++; !gone(n) {
						t.Errorf("%s: event %d is gone, depth is %+v", what, n, depth)
					}
				}
				if len(got) > 0 {
					t.Errorf("%s: there are events that nobody put: %v", what, slices.Collect(maps.Keys(got)))
				}
				// Cut off is what was not acknowledged, too: only here is nothing to keep.
				kept, _ := filepath.Glob(filepath.Join(dir, suspectName+"*"))
				if lost > depth.Aside && len(kept) == 0 && kind.name != "log cut" {
					t.Errorf("%s: %d events are gone and nothing is kept for a person", what, lost)
				}
				put(t, f, events(1000, 1010), 10)
				f.Close()
				f = open(t, dir)
				if again := settle(t, f, nil, nil); again.Waiting != 10 || again.Aside != depth.Aside {
					t.Errorf("%s: depth is %+v after reopening", what, again)
				}
				f.Close()
			}
		})
	}
}

// unreliable makes the next call find the database damaged.
func unreliable(t *testing.T, f *File) {
	t.Helper()
	f.bad = errors.New("fsync failed")
	if err := f.attach(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAFileThatFailedToWriteIsReplacedAndAllEventsCarriedOver(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	for n := range 40 {
		put(t, f, []audit.Event{mixed(n)}, 1)
	}
	next(t, f, 10)
	settle(t, f, ids(events(0, 5)), []audit.Rejection{{Event: mixed(5), Status: 400, Reason: "bad"}})
	if _, err := f.db.Exec("UPDATE waiting SET sha256 = x'00' WHERE event_id = ?", mixed(6).EventID.String()); err != nil {
		t.Fatal(err)
	}
	next(t, f, 40)
	// What was settled leaves whole pages behind, and must not come back.
	put(t, f, events(2000, 2300), 300)
	settle(t, f, ids(events(2000, 2300)), nil)
	want := settle(t, f, nil, nil)
	inode := func() any {
		info, err := os.Stat(filepath.Join(dir, dbName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	before := inode().(os.FileInfo)
	unreliable(t, f)
	if os.SameFile(before, inode().(os.FileInfo)) {
		t.Error("the file is the same")
	}
	if diff := cmp.Diff(want, settle(t, f, nil, nil)); diff != "" {
		t.Errorf("depth (-want +got):\n%s", diff)
	}
	if want := (audit.Depth{Waiting: 33, Rejected: 1, Aside: 1, Oldest: want.Oldest}); want != settle(t, f, nil, nil) {
		t.Errorf("depth is %+v, want %+v", settle(t, f, nil, nil), want)
	}
	// Nothing is left in the old file, so that it is not kept.
	if names, err := f.list(dbName + ".*"); err != nil || len(names) > 0 {
		t.Errorf("files %v, %v", names, err)
	}
	var order []uuid.UUID
	for n := 10; n < 40; n++ {
		order = append(order, mixed(n).EventID)
	}
	for n := 7; n < 10; n++ {
		order = append(order, mixed(n).EventID)
	}
	if diff := cmp.Diff(order, ids(next(t, f, 100))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	put(t, f, events(1000, 1001), 1)
}

func TestDamageThatIsFoundOnTheWayIsMendedOnTheWay(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 5000), 5000) // More than SQLite keeps in memory.
	if _, err := f.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(dir, dbName))
	for at := 100 * pageSize; at < 110*pageSize; at += pageSize {
		copy(text[at:], "garbage")
	}
	if err := os.WriteFile(filepath.Join(dir, dbName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	failures, seen := 0, map[uuid.UUID]bool{}
	var depth audit.Depth
	for round := 0; len(seen)+depth.Aside < 5000 && round < 100; round++ {
		list, d, err := f.Next(t.Context(), 1000)
		if depth = d; err != nil {
			if failures++; failures > 1 {
				t.Fatal(err)
			}
			continue
		}
		for _, e := range list {
			seen[e.EventID] = true
		}
		depth = settle(t, f, ids(list), nil)
	}
	if failures != 1 || depth.Aside == 0 || depth.Aside > 200 || depth.Waiting != 0 || len(seen)+depth.Aside != 5000 {
		t.Errorf("%d failures, %d events, depth is %+v", failures, len(seen), depth)
	}
	kept, _ := filepath.Glob(filepath.Join(dir, suspectName+"*"))
	if len(kept) == 0 {
		t.Error("the damaged file is not kept")
	}
	// A person has looked at it.
	for _, path := range kept {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	if depth := settle(t, open(t, dir), nil, nil); depth.Aside != 0 {
		t.Errorf("depth is %+v", depth)
	}
}

func TestAReplacementThatWasCutOffIsFinished(t *testing.T) {
	m := makeImage(t)
	at := damagedName + "20260102T030405.000000000Z"
	for name, cut := range map[string]func(t *testing.T, dir string){
		"log moved": func(*testing.T, string) {},
		"both moved": func(t *testing.T, dir string) {
			rename(t, dir, dbName, at)
		},
		"new one begun": func(t *testing.T, dir string) {
			rename(t, dir, dbName, at)
			if err := os.WriteFile(filepath.Join(dir, newName), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"new one made": func(t *testing.T, dir string) {
			rename(t, dir, dbName, at)
			f := open(t, t.TempDir())
			f.Close()
			if err := os.WriteFile(filepath.Join(dir, dbName), read(t, f.path(dbName)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := m.write(t)
			rename(t, dir, walName, at+"-wal")
			cut(t, dir)
			f := open(t, dir)
			if got := drain(t, f); len(got) != 300 {
				t.Errorf("%d events, want 300", len(got))
			}
			f.Close()
			if got := drain(t, open(t, dir)); len(got) != 0 {
				t.Errorf("%d events came back", len(got))
			}
		})
	}
}

func rename(t *testing.T, dir, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		t.Fatal(err)
	}
}

func TestWhatThereIsNoRoomForIsCarriedOverLater(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 2000), 2000)
	f.Close()
	text := read(t, filepath.Join(dir, dbName))
	text[0] = 'x'
	if err := os.WriteFile(filepath.Join(dir, dbName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(dir, 1<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if depth := settle(t, f, nil, nil); depth.Waiting == 0 || depth.Waiting == 2000 {
		t.Errorf("depth is %+v", depth)
	}
	first := next(t, f, 100)
	settle(t, f, ids(first), nil)
	// A restart does not begin from the start again.
	f.Close()
	if f, err = Open(dir, 1<<20, logr.Discard()); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := drain(t, f)
	for _, e := range first {
		if got[e.EventID] {
			t.Errorf("event %s came twice", e.EventID)
		}
	}
	if len(got) != 1900 {
		t.Errorf("%d events, want 1900", len(got))
	}
}
