package dlq

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
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

func TestNoFailingSystemCallLosesOrDoublesAnEvent(t *testing.T) {
	sums := harness.EachSyscall(t, childDir, t.TempDir, func(fault harness.SyscallFault, dir, printed string) map[string]int {
		return judge(t, fault, dir, printed)
	})
	for key, sum := range sums {
		if sum["missed"] > 0 {
			t.Errorf("%s: %d processes were not killed", key, sum["missed"])
		}
		switch key {
		case "fsync      error=EIO", "fsync      error=ENOSPC", "pwrite64   error=EIO":
			if sum["replaced"] < sum["runs"]/3 {
				t.Errorf("%s: a file that failed is used further in %d of %d runs", key, sum["runs"]-sum["replaced"], sum["runs"])
			}
		case "pwrite64   error=ENOSPC", "pwrite64   " + harness.SyscallKill:
			if sum["replaced"] > 0 {
				t.Errorf("%s: a file that did not fail is replaced in %d of %d runs", key, sum["replaced"], sum["runs"])
			}
		}
	}
}

func TestADiskThatCannotBeWrittenIsNamedAtTheStart(t *testing.T) {
	harness.NeedStrace(t)
	dir := t.TempDir()
	f := open(t, dir)
	put(t, f, events(0, 1), 1)
	f.Close()
	for _, what := range []string{"error=ENOSPC", "error=EIO"} {
		const want = "the disk cannot be written; see whether it is full or read-only"
		out, _, err := harness.Strace(t, childDir+"="+dir, &harness.SyscallFault{Call: "pwrite64", What: what})
		if err != nil || !bytes.Contains(out, []byte(want)) || !bytes.Contains(out, []byte("--dlq-path")) || bytes.Contains(out, []byte("put")) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	if got := drain(t, open(t, dir)); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

// judge looks at what a run with a fault has left, and counts what is wrong.
func judge(t *testing.T, inject harness.SyscallFault, dir, printed string) map[string]int {
	wrong := map[string]int{"lost": 0, "doubled": 0, "dead": 0, "replaced": strings.Count(printed, "database was damaged")}
	said := map[string]map[uuid.UUID]bool{"put": {}, "settling": {}, "settled": {}}
	for line := range strings.Lines(printed) {
		if words := strings.Fields(line); len(words) == 2 && said[words[0]] != nil {
			if id, err := uuid.Parse(words[1]); err == nil {
				said[words[0]][id] = true
			}
		}
	}
	f, err := Open(dir, 1<<20, logr.Discard())
	if err != nil {
		t.Errorf("%v: open: %v", inject, err)
		wrong["dead"]++
		return wrong
	}
	defer f.Close()
	depth, err := f.Settle(t.Context(), nil, nil)
	if err != nil || depth.Aside != 0 {
		t.Errorf("%v: depth is %+v, %v", inject, depth, err)
	}
	list, _, err := f.Next(t.Context(), 1000)
	if err != nil {
		t.Errorf("%v: next: %v", inject, err)
		wrong["dead"]++
	}
	got := map[uuid.UUID]bool{}
	for _, e := range list {
		if got[e.EventID] || said["settled"][e.EventID] {
			t.Errorf("%v: event %s twice, or after it was settled", inject, e.EventID)
			wrong["doubled"]++
		}
		got[e.EventID] = true
	}
	for id := range said["put"] {
		if !got[id] && !said["settling"][id] {
			t.Errorf("%v: event %s is lost", inject, id)
			wrong["lost"]++
		}
	}
	if added, err := f.Put(t.Context(), events(1000, 1001)); err != nil || added != 1 {
		t.Errorf("%v: put: %d, %v", inject, added, err)
		wrong["dead"]++
	}
	return wrong
}
