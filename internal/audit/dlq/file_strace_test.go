package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
)

// childDir names the directory of the queue in a process that is to be killed.
const childDir = "DLQ_TEST_CHILD_DIR"

// child is the process whose system calls fail. It says what it has an answer
// for, one line at a time, and ends with "end".
func child(dir string, out io.Writer) {
	// strace counts the calls of each thread.
	runtime.LockOSThread()
	ctx := context.Background()
	say := func(words ...any) { fmt.Fprintln(out, words...) }
	var f *File
	opened := again(say, func() (err error) {
		f, err = Open(dir, 1<<20, funcr.New(func(_, line string) { say("log", line) }, funcr.Options{}))
		return err
	})
	if !opened {
		return
	}
	held := 0
	for n := range 3 {
		if n == 2 {
			f.wal = f.maxWAL() // The log is to be emptied.
		}
		list := []audit.Event{sized(3*n, 100), sized(3*n+1, 9000), sized(3*n+2, 2000)}
		if !again(say, func() error {
			_, err := f.Put(ctx, list)
			return err
		}) {
			return
		}
		for _, e := range list {
			say("put", e.EventID)
		}
		held += len(list)
	}
	for n := range 2 {
		var list []audit.Event
		if !again(say, func() (err error) {
			list, _, err = f.Next(ctx, 3)
			return err
		}) {
			return
		}
		recorded := ids(list[n:])
		var rejected []audit.Rejection
		for _, e := range list[:n] {
			rejected = append(rejected, audit.Rejection{Event: e, Status: 400, Reason: "bad"})
		}
		for _, id := range recorded {
			say("settling", id)
		}
		var depth audit.Depth
		if !again(say, func() (err error) {
			depth, err = f.Settle(ctx, recorded, rejected)
			return err
		}) {
			return
		}
		for _, id := range recorded {
			say("settled", id)
		}
		if held -= len(recorded); depth.Waiting+depth.Rejected != held || depth.Aside != 0 {
			say("depth is", depth, "and not", held, "in all")
			return
		}
	}
	if err := f.Close(); err != nil {
		say("close:", err)
	}
	say("end")
}

// again is a caller that comes back, three times.
func again(say func(...any), do func() error) bool {
	for range 4 {
		err := do()
		if err == nil {
			return true
		}
		say("error:", err)
	}
	return false
}

const kill = "signal=KILL"

// fault makes one system call fail, the nth of its name, or all where nth is 0.
type fault struct {
	call, what string
	nth        int
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("REQUIRE_STRACE") == "1" {
			t.Fatal(err)
		}
		t.Skip("strace is not installed; REQUIRE_STRACE=1 makes this a failure")
	}
}

// strace runs the child with a fault, or with none.
func strace(t *testing.T, dir string, inject *fault) (out []byte, traced []byte, err error) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	args := []string{"-f", "-o", trace, "-e", "trace=" + strings.Join(calls, ",")}
	if inject != nil {
		which := fmt.Sprintf("inject=%s:%s", inject.call, inject.what)
		if inject.nth > 0 {
			which += fmt.Sprintf(":when=%d", inject.nth)
		}
		args = append(args, "-e", which)
	}
	if inject == nil || inject.what != kill {
		args = append(args, "--seccomp-bpf") // Much faster, but it delivers no signals.
	}
	cmd := exec.Command("strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err = cmd.CombinedOutput()
	traced, readErr := os.ReadFile(trace)
	return out, traced, errors.Join(err, readErr)
}

// calls change files. The queue uses no write, which the Go runtime uses for
// itself, and no writev.
var calls = []string{"pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat"}

// tally counts runs, what was wrong in them, and in how many of them a file was
// replaced.
type tally struct{ runs, lost, doubled, strange, dead, replaced int }

func TestNoFailingSystemCallLosesOrDoublesAnEvent(t *testing.T) {
	needStrace(t)
	out, traced, err := strace(t, t.TempDir(), nil)
	if err != nil || !bytes.Contains(out, []byte("\nend\n")) {
		t.Fatalf("without a fault: %v\n%s", err, out)
	}
	var faults []fault
	for _, call := range calls {
		count := len(regexp.MustCompile(`(?m)^\d+ +`+call+`\(`).FindAll(traced, -1))
		for nth := 1; nth <= count; nth++ {
			for _, what := range []string{kill, "error=ENOSPC", "error=EIO"} {
				faults = append(faults, fault{call, what, nth})
			}
		}
	}
	var mu sync.Mutex
	tallies := map[string]*tally{}
	next := make(chan fault)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for fault := range next {
				result := judge(t, fault)
				mu.Lock()
				key := fmt.Sprintf("%-10s %s", fault.call, fault.what)
				if tallies[key] == nil {
					tallies[key] = &tally{}
				}
				sum := tallies[key]
				sum.runs++
				sum.lost += result.lost
				sum.doubled += result.doubled
				sum.strange += result.strange
				sum.dead += result.dead
				sum.replaced += result.replaced
				mu.Unlock()
			}
		})
	}
	for _, fault := range faults {
		next <- fault
	}
	close(next)
	workers.Wait()
	t.Logf("%-24s %5s %5s %7s %7s %5s %8s", "", "runs", "lost", "doubled", "strange", "dead", "replaced")
	for _, key := range slices.Sorted(maps.Keys(tallies)) {
		sum := tallies[key]
		t.Logf("%-24s %5d %5d %7d %7d %5d %8d", key, sum.runs, sum.lost, sum.doubled, sum.strange, sum.dead, sum.replaced)
		switch key {
		case "fsync      error=EIO", "fsync      error=ENOSPC", "pwrite64   error=EIO":
			if sum.replaced < sum.runs/3 {
				t.Errorf("%s: a file that failed is used further in %d of %d runs", key, sum.runs-sum.replaced, sum.runs)
			}
		case "pwrite64   error=ENOSPC", "pwrite64   " + kill:
			if sum.replaced > 0 {
				t.Errorf("%s: a file that did not fail is replaced in %d of %d runs", key, sum.replaced, sum.runs)
			}
		}
	}
	if len(faults) < 150 {
		t.Errorf("only %d faults: the calls are not seen", len(faults))
	}
}

func TestADiskThatCannotBeWrittenIsNamedAtTheStart(t *testing.T) {
	needStrace(t)
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 1), 1)
	f.Close()
	for _, what := range []string{"error=ENOSPC", "error=EIO"} {
		const want = "the disk cannot be written; see whether it is full or read-only"
		out, _, err := strace(t, dir, &fault{call: "pwrite64", what: what})
		if err != nil || !bytes.Contains(out, []byte(want)) || !bytes.Contains(out, []byte("--dlq-path")) || bytes.Contains(out, []byte("put")) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	if got := drain(t, open(t, dir)); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

// judge runs the child with a fault and looks at what it has left.
func judge(t *testing.T, inject fault) tally {
	dir := t.TempDir()
	out, _, err := strace(t, dir, &inject)
	killed := inject.what == kill
	var result tally
	if ended := bytes.Contains(out, []byte("\nend\n")); !killed && (err != nil || !ended) || killed && ended {
		t.Errorf("%v: the child: %v\n%s", inject, err, out)
		result.dead++
	}
	if bytes.Contains(out, []byte("database was damaged")) {
		result.replaced = 1
	}
	said := map[string]map[uuid.UUID]bool{"put": {}, "settling": {}, "settled": {}}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) == 2 && said[words[0]] != nil {
			if id, err := uuid.Parse(words[1]); err == nil {
				said[words[0]][id] = true
			}
		}
	}
	f, err := Open(dir, 1<<20, logr.Discard())
	if err != nil {
		t.Errorf("%v: open: %v", inject, err)
		result.dead++
		return result
	}
	defer f.Close()
	depth, err := f.Settle(t.Context(), nil, nil)
	if err != nil || depth.Aside != 0 {
		t.Errorf("%v: depth is %+v, %v", inject, depth, err)
		result.strange++
	}
	list, _, err := f.Next(t.Context(), 1000)
	if err != nil {
		t.Errorf("%v: next: %v", inject, err)
		result.dead++
	}
	got := map[uuid.UUID]bool{}
	for _, e := range list {
		if got[e.EventID] {
			t.Errorf("%v: event %s twice", inject, e.EventID)
			result.doubled++
		}
		got[e.EventID] = true
		if said["settled"][e.EventID] {
			t.Errorf("%v: event %s was settled", inject, e.EventID)
			result.doubled++
		}
	}
	for id := range said["put"] {
		if !got[id] && !said["settling"][id] {
			t.Errorf("%v: event %s is lost", inject, id)
			result.lost++
		}
	}
	if added, err := f.Put(t.Context(), events(1000, 1001)); err != nil || added != 1 {
		t.Errorf("%v: put: %d, %v", inject, added, err)
		result.dead++
	}
	return result
}
