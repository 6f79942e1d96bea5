package dlq

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/internal/audit"
)

// sized returns an event that takes at least so many bytes.
func sized(n, bytes int) audit.Event {
	e := event(n)
	e.EventData = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", bytes))
	return e
}

func onDisk(t interface{ Fatal(...any) }, dir string) (bytes int64) {
	err := filepath.Walk(dir, func(_ string, info fs.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestTooFewBytesAreRefusedWithTheFlag(t *testing.T) {
	for _, bytes := range []int64{-1, 0, 1<<20 - 1} {
		_, err := Open(t.TempDir(), bytes, logr.Discard())
		if want := fmt.Sprintf("--dlq-max-bytes is %d; allowed is 1048576 (1 MiB) or more", bytes); err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}

// fill puts events of a number and above until no more fit, and returns how many did.
func fill(t *testing.T, f *File, from, bytes int) (n int, refusal error) {
	t.Helper()
	for step := 16; step > 0; step /= 2 {
		for n < 10_000 {
			var list []audit.Event
			for i := range step {
				list = append(list, sized(from+n+i, bytes))
			}
			added, err := f.Put(t.Context(), list)
			if err != nil {
				if added != 0 {
					t.Fatalf("%d events added with error %v", added, err)
				}
				refusal = err
				break
			}
			n += added
		}
	}
	return n, refusal
}

func TestAFullQueueRefusesEventsWholeAndGivesUpThoseThatItHas(t *testing.T) {
	for _, bytes := range []int{100, 2500, 20_000} {
		t.Run(fmt.Sprint(bytes), func(t *testing.T) {
			dir := t.TempDir()
			f, err := Open(dir, 1<<20, logr.Discard())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			n, refusal := fill(t, f, 0, bytes)
			want := fmt.Sprintf("the queue is full: --dlq-max-bytes is 1048576 and %d events are there; find out why DataStorage does not take them, or allow more bytes", n)
			if !strings.Contains(refusal.Error(), want) {
				t.Errorf("error is %v, want %q", refusal, want)
			}
			if stored := n * (bytes + 350); stored < 200_000 {
				t.Errorf("a queue of 1 MiB is full with %d bytes", stored)
			}
			if depth := settle(t, f, nil, nil); depth.Waiting != n {
				t.Errorf("%d wait, want %d", depth.Waiting, n)
			}
			// All are offered, over and over, and some can be rejected.
			for round := range 5 {
				for seen := 0; seen < n; {
					list := next(t, f, 1000)
					if len(list) == 0 {
						t.Fatalf("round %d: no more events after %d of %d", round, seen, n)
					}
					seen += len(list)
				}
			}
			var rejected []audit.Rejection
			for k := range n / 5 {
				rejected = append(rejected, audit.Rejection{Event: sized(k, bytes), Status: 400, Reason: "/event_type must not be this one"})
				settle(t, f, nil, rejected[k:])
			}
			wantDepth(t, audit.Depth{Waiting: n - len(rejected), Rejected: len(rejected)}, settle(t, f, nil, nil))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if f, err = Open(dir, 1<<20, logr.Discard()); err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for left := n; left > 0; {
				list := next(t, f, 100)
				if left -= len(list); len(list) == 0 {
					t.Fatalf("%d events are not offered", left)
				}
				settle(t, f, ids(list), nil)
				if bytes := onDisk(t, dir); bytes > 1<<20 {
					t.Errorf("%d bytes are on disk", bytes)
				}
			}
			if again, _ := fill(t, f, n, bytes); again < n*9/10 {
				t.Errorf("%d events fit at first, and %d when there was room again", n, again)
			}
		})
	}
}

func TestRejectionsHaveTheRoomOfTheRowsThatTheyEnd(t *testing.T) {
	f, err := Open(t.TempDir(), 1<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, _ := fill(t, f, 0, 20_000)
	rejected := []audit.Rejection{{Event: sized(0, 20_000), Status: 400, Reason: "no"}} // Named twice, it is still one.
	for k := range n {
		rejected = append(rejected, audit.Rejection{Event: sized(k, 20_000), Status: 400, Reason: "no"})
	}
	wantDepth(t, audit.Depth{Waiting: n - 1, Rejected: 1}, settle(t, f, nil, slices.Concat(rejected[:1], rejected[:1])))
	if got := len(next(t, f, n)); got != n-1 {
		t.Errorf("%d events, want %d", got, n-1)
	}
	wantDepth(t, audit.Depth{Rejected: n}, settle(t, f, nil, rejected))
}

func TestTheLogIsEmptiedBeforeItIsTooLarge(t *testing.T) {
	dir := t.TempDir()
	f, err := Open(dir, 1<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := range 40 {
		put(t, f, []audit.Event{sized(n, 60_000)}, 1)
		settle(t, f, ids([]audit.Event{event(n)}), nil)
		if bytes := onDisk(t, dir); bytes > 1<<20 {
			t.Fatalf("%d bytes are on disk after %d events", bytes, n+1)
		}
	}
}

func TestWhatHasNoRoomIsRefusedBeforeItIsWritten(t *testing.T) {
	f, err := Open(t.TempDir(), 1<<55, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []audit.Event
	for n := range 40 {
		list = append(list, sized(n, 1<<20))
	}
	want := "bytes at a time are more than --dlq-max-bytes 36028797018963968 has room for"
	if _, err := f.Put(t.Context(), list); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
	put(t, f, list[:30], 30)
	var disk syscall.Statfs_t
	if err := syscall.Statfs(f.dir, &disk); err != nil {
		t.Fatal(err)
	}
	want = fmt.Sprintf("the disk of --dlq-path %q is full but for what it takes to empty the queue", f.dir)
	if err := f.roomOnDisk(t.Context(), int64(disk.Bavail)*disk.Bsize); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
}

func TestTheDirectoryNeverTakesMoreThanItMay(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		// One check has some hundred fsyncs.
		if err := checks.Value.Set("8"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	rapid.Check(t, func(r *rapid.T) {
		dir := t.TempDir()
		maxBytes := rapid.Int64Range(1<<20, 3<<20).Draw(r, "maxBytes")
		f, err := Open(dir, maxBytes, logr.Discard())
		if err != nil {
			r.Fatal(err)
		}
		defer func() { f.Close() }()
		held, settled, n := map[uuid.UUID]bool{}, map[uuid.UUID]bool{}, 0
		check := func(depth audit.Depth) {
			if depth.Waiting+depth.Rejected != len(held) || depth.Aside != 0 {
				r.Fatalf("depth is %+v, want %d events", depth, len(held))
			}
			if bytes := onDisk(r, dir); bytes > maxBytes {
				r.Fatalf("%d bytes are on disk, allowed are %d", bytes, maxBytes)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				list := make([]audit.Event, rapid.IntRange(1, 300).Draw(r, "events"))
				bytes := rapid.IntRange(0, 200_000/len(list)).Draw(r, "bytes")
				for i := range list {
					list[i] = sized(n+i, bytes)
				}
				if added, err := f.Put(t.Context(), list); err == nil && added == len(list) {
					n += added
					for _, e := range list {
						held[e.EventID] = true
					}
				} else if err == nil || added != 0 || !strings.Contains(err.Error(), "--dlq-max-bytes") {
					r.Fatalf("%d of %d added, error %v", added, len(list), err)
				}
			},
			"replay": func(r *rapid.T) {
				list, depth, err := f.Next(t.Context(), rapid.IntRange(1, 1000).Draw(r, "limit"))
				if err != nil {
					r.Fatal(err)
				}
				check(depth)
				some := rapid.IntRange(0, len(list)).Draw(r, "recorded")
				var rejected []audit.Rejection
				for _, e := range list[some:] {
					if len(rejected) < 10 {
						rejected = append(rejected, audit.Rejection{Event: e, Status: 400, Reason: "no"})
					}
				}
				if depth, err = f.Settle(t.Context(), ids(list[:some]), rejected); err == nil {
					for _, e := range list[:some] {
						delete(held, e.EventID)
						settled[e.EventID] = true
					}
				} else if len(rejected) == 0 || !strings.Contains(err.Error(), "--dlq-max-bytes") {
					r.Fatal(err)
				}
				check(depth)
			},
			"restart": func(r *rapid.T) {
				f.Close()
				if f, err = Open(dir, maxBytes, logr.Discard()); err != nil {
					r.Fatal(err)
				}
				// What was settled may come back with the others of its row.
				for id := range f.letters {
					if settled[id] {
						held[id] = true
					}
				}
			},
			"": func(r *rapid.T) {
				depth, err := f.Settle(t.Context(), nil, nil)
				if err != nil {
					r.Fatal(err)
				}
				check(depth)
			},
		})
	})
}

func TestAQueueThatIsLargerThanAllowedIsDrainedAndTakesNoMore(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 5000), 5000)
	f.Close()
	f, err := Open(dir, 1<<20, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Put(t.Context(), events(5000, 5100)); err == nil || !strings.Contains(err.Error(), "--dlq-max-bytes is 1048576 and 5000 events are there") {
		t.Errorf("error is %v", err)
	}
	for range 5 {
		list := next(t, f, 1000)
		settle(t, f, ids(list), nil)
	}
	put(t, f, events(5000, 5100), 100)
	if diff := cmp.Diff(ids(events(5000, 5100)), ids(next(t, f, 1000))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	settle(t, f, ids(events(5000, 5100)), nil)
	if bytes := onDisk(t, dir); bytes > 1<<20 {
		t.Errorf("%d bytes are on disk when it is empty", bytes)
	}
}

// disk is one of so many bytes.
func disk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestAReplacementThatTheDiskHasNoRoomForLosesNothing(t *testing.T) {
	dir := disk(t, "10m")
	f, err := Open(dir, roomy, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { f.Close() }()
	n := 0
	for ; n < 2000; n += 50 {
		var list []audit.Event
		for k := range 50 {
			list = append(list, sized(n+k, 2000))
		}
		if _, err := f.Put(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.mend(t.Context(), damageError{errors.New("fsync failed")}); err == nil || !strings.Contains(err.Error(), "the disk cannot be written") {
		t.Errorf("error is %v", err)
	}
	depth, err := f.Settle(t.Context(), nil, nil)
	if err != nil {
		t.Error(err)
	}
	if list, _, err := f.Next(t.Context(), 10); err != nil || len(list) != 10 {
		t.Errorf("%d events, %v", len(list), err)
	}
	if depth.Waiting != n || depth.Aside != 0 {
		t.Errorf("depth is %+v, %v; want %d waiting", depth, err, n)
	}
	if _, err := os.Lstat(filepath.Join(dir, buildingDir)); err == nil {
		t.Error("half a database takes room")
	}
}

func TestRecordedEventsAreSettledWhereTheDatabaseCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 301), 301)
	if err := f.detach(); err != nil {
		t.Fatal(err)
	}
	rename(t, filepath.Join(dir, currentDir), filepath.Join(dir, "away"))
	if err := os.WriteFile(filepath.Join(dir, currentDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		wantDepth(t, audit.Depth{Waiting: 301 - 100*(n+1)}, settle(t, f, ids(events(100*n, 100*n+100)), nil))
		if _, err := f.Put(t.Context(), events(1000, 1001)); err == nil {
			t.Error("an event was put where nothing can be")
		}
		if _, err := f.Settle(t.Context(), nil, []audit.Rejection{{Event: event(300), Status: 400, Reason: "no"}}); err == nil {
			t.Error("an event was rejected where nothing can be kept")
		}
	}
	if err := os.Remove(filepath.Join(dir, currentDir)); err != nil {
		t.Fatal(err)
	}
	rename(t, filepath.Join(dir, "away"), filepath.Join(dir, currentDir))
	wantDepth(t, audit.Depth{Waiting: 1}, settle(t, f, nil, nil))
	put(t, f, events(1000, 1001), 1)
	wantNext(t, f, 100, []audit.Event{event(300), event(1000)})
	f.Close()
	wantNext(t, open(t, dir), 100, []audit.Event{event(300), event(1000)})
}
