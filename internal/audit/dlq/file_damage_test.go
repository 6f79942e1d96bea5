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

const (
	inDB      = 150 // events that a killed process has left in the database, some rejected
	inAll     = 190 // those beyond are in its log
	walHeader = 32
	frame     = 24 + pageSize
)

type image struct {
	db, wal []byte
	ends    map[int]int // the log's size when an event was put
}

// mixed fits a page, with others.
func mixed(n int) audit.Event { return sized(n, n%5*150) }

func makeImage(t *testing.T) image {
	t.Helper()
	dir := t.TempDir()
	f := open(t, dir)
	for n := range inDB {
		put(t, f, []audit.Event{mixed(n)}, 1)
	}
	settle(t, f, nil, []audit.Rejection{{Event: mixed(3), Status: 400, Reason: "bad"}, {Event: mixed(4), Status: 400, Reason: "bad"}})
	f.Close()
	f = open(t, dir)
	m := image{ends: map[int]int{}}
	for n := inDB; n < inAll; n++ {
		put(t, f, []audit.Event{mixed(n)}, 1)
		info, err := os.Stat(dbPath(dir) + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		m.ends[n] = int(info.Size())
	}
	m.db, m.wal = read(t, dbPath(dir)), read(t, dbPath(dir)+"-wal")
	return m
}

func dbPath(dir string) string { return filepath.Join(dir, currentDir, dbName) }

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
	if err := os.Mkdir(filepath.Join(dir, currentDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{dbPath(dir): m.db, dbPath(dir) + "-wal": m.wal} {
		if text == nil {
			continue
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
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

func TestWhateverIsDamagedAllElseIsThere(t *testing.T) {
	m := makeImage(t)
	all := func(int) bool { return true }
	none := func(int) bool { return false }
	logged := func(n int) bool { return n >= inDB }
	// A page that has events takes these along, one that leads to others may take
	// all. What comes behind a damage of the log was written for nothing.
	onPage := func(at int) func(int) bool {
		page := m.db[at/pageSize*pageSize:][:pageSize]
		const leafOfTable = 13
		if page[0] != leafOfTable {
			return all
		}
		return func(n int) bool { return bytes.Contains(page, []byte(mixed(n).EventID.String())) }
	}
	behind := func(at int) func(int) bool {
		start := 0
		if at >= walHeader {
			start = walHeader + (at-walHeader)/frame*frame
		}
		return func(n int) bool { return m.ends[n] > start }
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
			return all, fmt.Sprint(at)
		}},
		{"database bit flipped", 24, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.db))
			for at >= 60 && at < 64 { // The version: a program that is too old must not touch what is newer.
				at = rng.IntN(len(m.db))
			}
			bit := byte(1) << rng.IntN(8)
			c.db[at] ^= bit
			return onPage(at), fmt.Sprint(at, " ", bit)
		}},
		{"database page overwritten", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.db)/pageSize) * pageSize
			copy(c.db[at:at+pageSize], bytes.Repeat([]byte("garbage\x00"), pageSize))
			return onPage(at), fmt.Sprint(at)
		}},
		{"garbage behind the database", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = append(c.db, bytes.Repeat([]byte("garbage\x00"), 700)...)
			return none, ""
		}},
		{"database replaced by garbage", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = []byte("this is no database")
			return all, ""
		}},
		{"database gone", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.db = nil
			return all, ""
		}},
		{"log cut", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.wal))
			c.wal = c.wal[:at]
			return behind(at), fmt.Sprint(at)
		}},
		{"log bit flipped", 12, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			at := rng.IntN(len(m.wal))
			bit := byte(1) << rng.IntN(8)
			c.wal[at] ^= bit
			return behind(at), fmt.Sprint(at, " ", bit)
		}},
		{"log with a half-written end", 4, func(rng *rand.Rand, c *image) (func(int) bool, string) {
			c.wal = append(c.wal, m.wal[walHeader:][:rng.IntN(frame)]...)
			return none, ""
		}},
		{"log replaced by garbage", 1, func(_ *rand.Rand, c *image) (func(int) bool, string) {
			c.wal = []byte(strings.Repeat("garbage", 1000))
			return logged, ""
		}},
	}
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for range kind.runs {
				c := image{db: slices.Clone(m.db), wal: slices.Clone(m.wal)}
				gone, what := kind.damage(rng, &c)
				damaged(t, what, c, gone)
			}
		})
	}
}

// damaged opens what is left, and wants it to give all events that are not gone,
// each once and none besides, to keep the old database where one is missing, and
// to be as good as new.
func damaged(t *testing.T, what string, c image, gone func(n int) bool) {
	t.Helper()
	dir := c.write(t)
	f, err := Open(dir, roomy, logr.Discard())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got := drain(t, f)
	aside := settle(t, f, nil, nil).Aside
	lost := 0
	for n := range inAll {
		if id := mixed(n).EventID; got[id] {
			delete(got, id)
		} else if lost++; !gone(n) {
			t.Errorf("%s: event %d is gone", what, n)
		}
	}
	if len(got) > 0 {
		t.Errorf("%s: there are events that nobody put: %v", what, slices.Collect(maps.Keys(got)))
	}
	// The end of the log may be what nobody was promised.
	kept, _ := filepath.Glob(filepath.Join(dir, suspectDir+"*", dbName+"*"))
	if lost > aside && len(kept) == 0 && !gone(inAll-1) {
		t.Errorf("%s: %d events are gone, %d are set aside and nothing is kept for a person", what, lost, aside)
	}
	put(t, f, events(1000, 1010), 10)
	f.Close()
	f = open(t, dir)
	if again := settle(t, f, nil, nil); again.Waiting != 10 || again.Aside != aside {
		t.Errorf("%s: depth is %+v after reopening; %d were aside", what, again, aside)
	}
	f.Close()
}

func TestAFreeListThatIsDamagedIsNotWrittenTo(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 200), 200)
	put(t, f, events(200, 210), 10)
	settle(t, f, ids(events(0, 200)), nil)
	f.Close()
	text := read(t, dbPath(dir))
	text[39]++ // how many pages are free
	if err := os.WriteFile(dbPath(dir), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, open(t, dir)); len(got) != 10 {
		t.Errorf("%d events, want 10", len(got))
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, suspectDir+"*", dbName)); len(kept) != 1 {
		t.Errorf("kept is %v", kept)
	}
}

func TestAFileThatFailedToWriteIsReplacedAndAllEventsCarriedOver(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	for n := range 40 {
		put(t, f, []audit.Event{mixed(n)}, 1)
	}
	settle(t, f, ids(events(0, 5)), []audit.Rejection{{Event: mixed(5), Status: 400, Reason: "bad"}})
	if _, err := f.db.Exec("UPDATE batches SET crc32c = 0 WHERE seq = 7"); err != nil {
		t.Fatal(err)
	}
	next(t, f, 40)
	wantDepth(t, audit.Depth{Waiting: 33, Rejected: 1, Aside: 1}, settle(t, f, nil, nil))
	cause := damageError{errors.New("fsync failed")}
	if err := f.mend(t.Context(), cause); !errors.Is(err, cause) || err.Error() != cause.Error() {
		t.Errorf("error is %v", err)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, suspectDir+"*", dbName)); len(kept) != 1 {
		t.Errorf("kept is %v", kept)
	}
	wantDepth(t, audit.Depth{Waiting: 33, Rejected: 1, Aside: 1}, settle(t, f, nil, nil))
	var want []audit.Event
	for n := 7; n < 40; n++ {
		want = append(want, mixed(n))
	}
	// Nobody knows any more when it was rejected.
	if diff := cmp.Diff(ids(append(want, mixed(5))), ids(next(t, f, 100))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	put(t, f, events(1000, 1001), 1)
}

func TestDamageThatIsFoundOnTheWayIsMendedOnTheWay(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 5000), 5000) // More than SQLite keeps in memory.
	if err := f.checkpoint(t.Context(), "TRUNCATE"); err != nil {
		t.Fatal(err)
	}
	const from, to = 100, 110
	file, err := os.OpenFile(dbPath(dir), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := from; page < to; page++ {
		if _, err := file.WriteAt([]byte("garbage"), int64(page)*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	file.Close()
	seen := map[uuid.UUID]bool{}
	var depth audit.Depth
	for range 20 {
		list, _, err := f.Next(t.Context(), 1000)
		if err != nil && !isDamage(err) {
			t.Fatal(err)
		}
		for _, e := range list {
			seen[e.EventID] = true
		}
		depth = settle(t, f, ids(list), nil)
	}
	if depth.Aside == 0 || depth.Aside > 300 || depth.Waiting != 0 || len(seen)+depth.Aside != 5000 {
		t.Errorf("%d events, depth is %+v", len(seen), depth)
	}
	put(t, f, events(6000, 6001), 1)
}

func TestAReplacementThatWasCutOffIsFinished(t *testing.T) {
	m := makeImage(t)
	for name, cut := range map[string]func(t *testing.T, dir string){
		"new one begun": func(t *testing.T, dir string) {
			half := (image{db: m.db[:5000]}).write(t)
			rename(t, filepath.Join(half, currentDir), filepath.Join(dir, buildingDir))
		},
		"new one ready": func(t *testing.T, dir string) {
			rename(t, filepath.Join(m.write(t), currentDir), filepath.Join(dir, readyDir))
		},
		"old one moved": func(t *testing.T, dir string) {
			rename(t, filepath.Join(dir, currentDir), filepath.Join(dir, readyDir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := m.write(t)
			cut(t, dir)
			f := open(t, dir)
			if got := drain(t, f); len(got) != inAll {
				t.Errorf("%d events, want %d", len(got), inAll)
			}
			cause := damageError{errors.New("fsync failed")}
			if err := f.mend(t.Context(), cause); err.Error() != cause.Error() {
				t.Errorf("error is %v", err)
			}
			f.Close()
			if got := drain(t, open(t, dir)); len(got) != 0 {
				t.Errorf("%d events came back", len(got))
			}
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestAnUnreadableRowTakesNoOtherRowAlong(t *testing.T) {
	f := open(t, t.TempDir())
	put(t, f, events(0, 2), 2)
	put(t, f, events(2, 3), 1)
	wantNext(t, f, 1, events(0, 1))
	if _, err := f.db.Exec("UPDATE batches SET crc32c = 0 WHERE seq = 2"); err != nil {
		t.Fatal(err)
	}
	wantNext(t, f, 10, []audit.Event{event(1), event(0)})
	wantDepth(t, audit.Depth{Waiting: 2, Aside: 1}, settle(t, f, nil, nil))
}

func TestAnUnreadableRowIsCountedOnceWhenTheDatabaseIsReplaced(t *testing.T) {
	f := open(t, t.TempDir())
	put(t, f, events(0, 10), 10)
	put(t, f, events(10, 20), 10)
	if _, err := f.db.Exec("UPDATE batches SET crc32c = 0 WHERE seq = 2"); err != nil {
		t.Fatal(err)
	}
	_ = f.mend(t.Context(), damageError{errors.New("fsync failed")})
	wantDepth(t, audit.Depth{Waiting: 10, Aside: 10}, settle(t, f, nil, nil))
	// That which can be read again comes back, and is counted aside no more.
	settle(t, f, ids(events(0, 5)), nil)
	if _, err := f.db.Exec("UPDATE batches SET crc32c = ? WHERE seq = 2", checksum(audit.AppendEvents(nil, events(10, 20)), 0, "")); err != nil {
		t.Fatal(err)
	}
	_ = f.mend(t.Context(), damageError{errors.New("fsync failed")})
	wantDepth(t, audit.Depth{Waiting: 15}, settle(t, f, nil, nil))
}

func TestWhatWasSettledDoesNotComeBackWithAReplacement(t *testing.T) {
	f := open(t, t.TempDir())
	put(t, f, events(0, 10), 10)
	settle(t, f, ids(events(0, 9)), nil)
	_ = f.mend(t.Context(), damageError{errors.New("fsync failed")})
	wantDepth(t, audit.Depth{Waiting: 1}, settle(t, f, nil, nil))
	wantNext(t, f, 100, events(9, 10))
	wantDepth(t, audit.Depth{}, settle(t, f, ids(events(9, 10)), nil))
}

func TestLostEventsAreCountedWhereTheReplacementTookTwoTries(t *testing.T) {
	f := open(t, t.TempDir())
	put(t, f, events(0, 10), 10)
	put(t, f, events(10, 20), 10)
	if _, err := f.db.Exec("DELETE FROM batches WHERE seq = 2"); err != nil { // As damage would.
		t.Fatal(err)
	}
	// The new database is there, and then cannot be opened.
	if err := f.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantDepth(t, audit.Depth{Waiting: 10, Aside: 10}, settle(t, f, nil, nil))
}
